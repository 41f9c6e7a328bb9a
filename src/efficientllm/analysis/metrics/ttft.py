"""TTFT: seconds from a request's tokens to the first token of its answer, inside whole requests."""

from __future__ import annotations

import statistics

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_series
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def ttft(measurement: Measurement, window: Window) -> float | Absent:
    """Return the median time to first token of the window's batches, in seconds. Reads: series `ttft_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> from msgspec.structs import replace
    >>> record, window = measured("generate")
    >>> times = replace(series(0.5, 0.25, 9.0), name="ttft_s")
    >>> ttft(record, replace(window, series=(times,)))
    0.5
    """
    series = find_series(measurement, window, "ttft_s")
    return series if isinstance(series, Absent) else statistics.median(series.values)


ENTRY = MetricEntry(
    column=Column(
        key="ttft",
        title="TTFT",
        unit="s",
        better="low",
        meaning="median time to the first token of the answers, inside whole requests",
    ),
    group="latency",
    windows=("generate",),
    measure=ttft,
    order=10,
)
