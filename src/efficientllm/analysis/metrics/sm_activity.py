"""SM activity: share of time in which the multiprocessors had work."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import mean_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def sm_activity(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of time in which the multiprocessors had work, by the device's own counters.

    Reads: series `sm_activity_ratio`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> sm_activity(*measured(sm_activity_ratio=series(0.25, 0.75)))
    0.5
    """
    return mean_of(measurement, window, "sm_activity_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="sm_activity",
        title="SM activity",
        unit="ratio",
        meaning="share of time in which the multiprocessors had work",
    ),
    group="compute",
    measure=sm_activity,
    order=4,
)
