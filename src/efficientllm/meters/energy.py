"""Energy and power: the hardware's total-energy counter and its power readings."""

from __future__ import annotations

from efficientllm.meters._contract import MeterEntry, from_device

_QUANTITIES = ("energy_j", "power_w", "power_instant_w")

ENTRY = MeterEntry(
    title="energy counter and power",
    quantities=_QUANTITIES,
    interval_s=0.0,
    open=from_device(*_QUANTITIES),
)
