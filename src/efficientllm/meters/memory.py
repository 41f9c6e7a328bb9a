"""Memory on the device: what the watched processes hold, and what everybody holds."""

from __future__ import annotations

from efficientllm.meters._contract import MeterEntry, from_device

_QUANTITIES = ("process_memory_bytes", "device_memory_bytes")

ENTRY = MeterEntry(
    title="memory of the processes and of the device",
    quantities=_QUANTITIES,
    interval_s=0.0,
    open=from_device(*_QUANTITIES),
)
