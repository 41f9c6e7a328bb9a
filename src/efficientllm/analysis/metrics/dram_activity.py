"""DRAM activity: share of time in which the device memory moved data."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import mean_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def dram_activity(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of time in which the device memory moved data, by the device's own counters.

    Reads: series `dram_activity_ratio`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> dram_activity(*measured(dram_activity_ratio=series(0.25, 0.75)))
    0.5
    """
    return mean_of(measurement, window, "dram_activity_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="dram_activity",
        title="DRAM activity",
        unit="ratio",
        meaning="share of time in which the device memory moved data",
    ),
    group="compute",
    measure=dram_activity,
    order=6,
)
