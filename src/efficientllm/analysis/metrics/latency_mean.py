"""Mean latency: seconds of all steps over their number, as the paper's AL."""

from __future__ import annotations

import statistics

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import steps
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def latency_mean(measurement: Measurement, window: Window) -> float | Absent:
    """Return the mean step time, in seconds. Reads: series `step_s`. Source: arXiv 2505.13840, AL.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> latency_mean(*measured(step_s=(0.5, 0.25, 0.75)))
    0.5
    """
    values = steps(measurement, window)
    return values if isinstance(values, Absent) else statistics.fmean(values)


ENTRY = MetricEntry(
    column=Column(
        key="latency_mean",
        title="Mean latency",
        symbol="AL",
        unit="s",
        better="low",
        meaning="mean time of a step, the paper's AL",
    ),
    group="latency",
    measure=latency_mean,
    order=1,
)
