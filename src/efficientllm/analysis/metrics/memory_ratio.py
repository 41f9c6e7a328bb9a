"""Memory ratio: mean memory of this process over what the device holds."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics.memory_mean import memory_mean
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def memory_ratio(measurement: Measurement, window: Window) -> float | Absent:
    """Return mean memory over the capacity of a device; of several devices the fullest.

    Reads: what `memory_mean` reads, and the devices' capacity.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> memory_ratio(*measured(process_memory_bytes=series(1 << 33, 1 << 33)))
    0.5
    """
    used_bytes = memory_mean(measurement, window)
    capacity_bytes = max(device.capacity_bytes for device in measurement.environment.devices)
    if isinstance(used_bytes, Absent):
        return used_bytes
    return used_bytes / capacity_bytes if capacity_bytes else Absent("the device does not tell its capacity")


ENTRY = MetricEntry(
    column=Column(
        key="memory_ratio",
        title="Memory ratio",
        unit="ratio",
        better="low",
        meaning="mean memory over the device's capacity",
    ),
    group="memory",
    measure=memory_ratio,
    order=4,
)
