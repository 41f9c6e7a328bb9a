"""p99 TTFT of served requests: from when a request was to be sent to the first piece of its reply."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import SERVED, percentile_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def ttft_p99(measurement: Measurement, window: Window) -> float | Absent:
    """Return the 99th percentile of TTFT over requests, in seconds. Reads: series `ttft_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> ttft_p99(*measured("serve", ttft_s=series(*([0.25] * 1000))))
    0.25
    >>> ttft_p99(*measured("serve", ttft_s=series(0.25))).reason
    'p99 needs 1000 samples, there are 1'
    """
    return percentile_of(measurement, window, "ttft_s", 99)


ENTRY = MetricEntry(
    column=Column(
        key="ttft_p99", title="p99 TTFT", unit="s", better="low", meaning="TTFT that 99 % of the requests stay below"
    ),
    group="latency",
    windows=(SERVED,),
    measure=ttft_p99,
    order=6,
)
