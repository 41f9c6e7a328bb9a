"""A series: what one source said over time."""

from __future__ import annotations

import msgspec


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Values of one quantity at points of time.

    Attributes:
        name: quantity with its unit at the end, for example `process_memory_bytes`.
        unit: base unit (`bytes`, `s`, `w`, `j`, `ratio`, `nats/token` …).
        at_s: seconds on the measurement's clock (0 = the trial's process started), ascending.
        values: one for each point of time.
        source: what read it, for example `nvml.total_energy` or `psutil.uss`.
        rank: rank of the process it belongs to.
        device: index of the device it belongs to.
    """

    name: str
    unit: str
    at_s: tuple[float, ...]
    values: tuple[float, ...]
    source: str = ""
    rank: int = 0
    device: int = 0
