"""A window: a span of a trial in which one thing was done over and over, and what was seen of it."""

from __future__ import annotations

import msgspec

from efficientllm.records.series import Series

#: Told absent in a window whose work ran elsewhere: nothing that this machine's meters saw in it is kept.
ELSEWHERE = "device"


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of a window does, counted from shapes; 0 means that it does not apply.

    Attributes:
        tokens: tokens trained on, prefilled or generated a step, over all rows.
        samples: rows a step.
        model_flops: floating-point operations a step that the model needs (causal attention counted half, active
            experts only, no recompute).
        moved_bytes: fewest bytes a step that must cross the device's memory: weights and cache read in decode.
        working_set_bytes: bytes that one step touches; below 4 caches' size no bandwidth can be told.
    """

    tokens: int = 0
    samples: int = 0
    model_flops: float = 0.0
    moved_bytes: float = 0.0
    working_set_bytes: float = 0.0


class Caution(msgspec.Struct, frozen=True, kw_only=True):
    """Something a reader must know of a measurement: a code to search for and a sentence to read."""

    code: str
    text: str


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One measured span.

    Attributes:
        name: `train`, `prefill`, `decode`, `serve`, `quality` or `user`; `load` and `idle` are reported apart.
        coordinates: where on the workload's grid, for example `{"batch": 1, "tokens": 4096}`.
        outcome: `ok`, or how it ended; `reason` says why.
        begin_s, end_s: on the measurement's clock.
        work: what one step does.
        series: `step_s` (one value a step, at its end) and what the meters sampled between begin and end.
        figures: single numbers with their unit in the name (`heldout_bits_per_byte`, `allocated_peak_bytes`).
        absent: quantity -> why it was not measured.
    """

    name: str
    coordinates: dict[str, int] = {}
    outcome: str = "ok"
    reason: str = ""
    begin_s: float = 0.0
    end_s: float = 0.0
    work: Work = Work()
    series: tuple[Series, ...] = ()
    figures: dict[str, float] = {}
    absent: dict[str, str] = {}

    def find(self, name: str, rank: int = 0) -> Series | None:
        """Return the series of this name and rank, or None."""
        return next((s for s in self.series if s.name == name and s.rank == rank), None)

    def label(self) -> str:
        """Return name and coordinates as a table shows them.

        >>> Window(name="decode", coordinates={"batch": 1, "tokens": 4096}).label()
        'decode batch=1 tokens=4096'
        """
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.coordinates.items())])
