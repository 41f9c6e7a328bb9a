"""TTFT: seconds from a request to the first token of its answer, inside whole requests, served by us or by a server."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import SERVED, percentile_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def ttft(measurement: Measurement, window: Window) -> float | Absent:
    """Return the median time to first token of the window's requests, in seconds. Reads: series `ttft_s`.

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
        meaning="median time to first token, inside whole requests: of a server's, from when each was to be sent",
    ),
    group="latency",
    windows=("generate", SERVED),
    headline=(SERVED,),
    measure=ttft,
    order=4,
)
