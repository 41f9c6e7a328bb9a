"""Tensor activity: share of time in which the matrix units worked."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import mean_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def tensor_activity(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of time in which the matrix units worked, by the device's own counters.

    Reads: series `tensor_activity_ratio`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> tensor_activity(*measured(tensor_activity_ratio=series(0.25, 0.75)))
    0.5
    """
    return mean_of(measurement, window, "tensor_activity_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="tensor_activity",
        title="Tensor activity",
        unit="ratio",
        meaning="share of time in which the matrix units worked",
    ),
    group="compute",
    measure=tensor_activity,
    order=5,
)
