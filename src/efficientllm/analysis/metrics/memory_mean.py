"""Mean memory: what this process held on the device, averaged over the measured window."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import TIMED, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import net_bytes, of_all_devices, time_mean
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def memory_mean(measurement: Measurement, window: Window) -> float | Absent:
    """Return the time average of what this process holds on the device, in bytes; of several devices the fullest.

        1/T * integral of used_bytes(t) dt

    Reads: series `process_memory_bytes`; on a CPU `memory_baseline_bytes` is taken off. Counts: what the driver reports
    for this process (CPU: anonymous resident bytes; mapped token files do not count). Ignores: loading and warm-up,
    which lie outside the window. Source: arXiv 2505.13840, AMU.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> measurement, window = measured(process_memory_bytes=series(20, 60, 60))
    >>> memory_mean(measurement, window)
    50.0
    """
    used = of_all_devices(measurement, window, "process_memory_bytes")
    return used if isinstance(used, Absent) else net_bytes(measurement, max(time_mean(series) for series in used))


ENTRY = MetricEntry(
    column=Column(
        key="memory_mean",
        title="Memory",
        symbol="AMU",
        unit="bytes",
        better="low",
        meaning="time average of what this process holds on the device (CPU: beyond what it held without a model)",
    ),
    group="memory",
    headline=TIMED,
    measure=memory_mean,
    order=0,
)
