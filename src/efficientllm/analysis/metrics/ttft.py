"""Median TTFT of served requests: from when a request was to be sent to the first piece of its reply."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import SERVED, percentile_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def ttft(measurement: Measurement, window: Window) -> float | Absent:
    """Return the median of TTFT over requests, in seconds. Reads: series `ttft_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> ttft(*measured("serve", ttft_s=series(*([0.25] * 1))))
    0.25
    """
    return percentile_of(measurement, window, "ttft_s", 50)


ENTRY = MetricEntry(
    column=Column(
        key="ttft",
        title="TTFT",
        unit="s",
        better="low",
        meaning="time to first token: from when a request was to be sent to the first piece of its reply",
    ),
    group="latency",
    windows=(SERVED,),
    headline=(SERVED,),
    measure=ttft,
    order=4,
)
