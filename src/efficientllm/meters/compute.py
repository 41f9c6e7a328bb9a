"""How busy the device was: driver's share, processor seconds, activity counters."""

from __future__ import annotations

from efficientllm.meters._contract import MeterEntry, from_device

_QUANTITIES = (
    "busy_ratio",
    "processor_s",
    "machine_processor_s",
    "machine_stolen_s",
    "sm_activity_ratio",
    "tensor_activity_ratio",
    "dram_activity_ratio",
)

ENTRY = MeterEntry(
    title="busy share, processor seconds, activity counters",
    quantities=_QUANTITIES,
    interval_s=0.0,
    open=from_device(*_QUANTITIES),
)
