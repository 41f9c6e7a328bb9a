"""Clocks, temperature, throttle reasons and foreign processes: whether the device ran as it should."""

from __future__ import annotations

from efficientllm.meters._contract import MeterEntry, from_device

_QUANTITIES = ("clock_hz", "memory_clock_hz", "temperature_c", "throttle_reasons", "num_foreign_processes")

ENTRY = MeterEntry(
    title="clocks, temperature, throttling, foreign processes",
    quantities=_QUANTITIES,
    interval_s=0.2,
    open=from_device(*_QUANTITIES),
)
