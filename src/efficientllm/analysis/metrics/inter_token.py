"""Inter-token time: seconds between one token of an answer and the next, inside whole requests."""

from __future__ import annotations

import statistics

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_series
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def inter_token(measurement: Measurement, window: Window) -> float | Absent:
    """Return the median time between tokens of the window's batches, in seconds. Reads: series `inter_token_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> from msgspec.structs import replace
    >>> record, window = measured("generate")
    >>> times = replace(series(0.5, 0.25, 9.0), name="inter_token_s")
    >>> inter_token(record, replace(window, series=(times,)))
    0.5
    """
    series = find_series(measurement, window, "inter_token_s")
    return series if isinstance(series, Absent) else statistics.median(series.values)


ENTRY = MetricEntry(
    column=Column(
        key="inter_token",
        title="Inter-token",
        unit="s",
        better="low",
        meaning="median time between tokens of the answers, inside whole requests",
    ),
    group="latency",
    windows=("generate",),
    measure=inter_token,
    order=11,
)
