"""Peak memory: the most that this process held on the device in the window."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import net_bytes, of_all_devices
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def memory_peak(measurement: Measurement, window: Window) -> float | Absent:
    """Return the largest sample of what this process holds on the device, in bytes; of several devices the fullest.

    Reads: series `process_memory_bytes`, on a CPU less `memory_baseline_bytes`. Ignores: what rose and fell between two
    samples; `allocated_peak` sees that, for torch's own allocations.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> measurement, window = measured(process_memory_bytes=series(20, 60, 40))
    >>> memory_peak(measurement, window)
    60
    """
    used = of_all_devices(measurement, window, "process_memory_bytes")
    return used if isinstance(used, Absent) else net_bytes(measurement, max(max(series.values) for series in used))


ENTRY = MetricEntry(
    column=Column(
        key="memory_peak",
        title="Peak memory",
        unit="bytes",
        better="low",
        meaning="most that the driver saw this process hold on the device in the window",
    ),
    group="memory",
    measure=memory_peak,
    order=1,
)
