"""Median latency: seconds of a typical step, from synchronised edge to synchronised edge."""

from __future__ import annotations

import statistics

from efficientllm.analysis.metrics._contract import TIMED, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import steps
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def latency_median(measurement: Measurement, window: Window) -> float | Absent:
    """Return the median step time, in seconds.

    A training step, a prompt (TTFT), one further token (TPOT), or a batch of whole requests.
    Reads: series `step_s`. Source: arXiv 2505.13840, AL, which takes the mean (`latency_mean`).

    >>> from efficientllm.analysis.metrics._example import measured
    >>> latency_median(*measured(step_s=(0.5, 0.25, 9.0)))
    0.5
    """
    values = steps(measurement, window)
    return values if isinstance(values, Absent) else statistics.median(values)


ENTRY = MetricEntry(
    column=Column(
        key="latency_median",
        title="Latency",
        symbol="AL",
        unit="s",
        better="low",
        meaning="median time of a step: training step, prompt (TTFT), one further token (TPOT), or whole request",
    ),
    group="latency",
    headline=TIMED,
    titles={
        "train": "Step",
        "prefill": "TTFT",
        "decode": "TPOT",
        "generate": "End to end",
        "serve": "End to end",
    },
    measure=latency_median,
    order=0,
)
