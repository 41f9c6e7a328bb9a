"""p95 TTFT of served requests: from when a request was to be sent to the first piece of its reply."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import SERVED, percentile_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def ttft_p95(measurement: Measurement, window: Window) -> float | Absent:
    """Return the 95th percentile of TTFT over requests, in seconds. Reads: series `ttft_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> ttft_p95(*measured("serve", ttft_s=series(*([0.25] * 200))))
    0.25
    >>> ttft_p95(*measured("serve", ttft_s=series(0.25))).reason
    'p95 needs 200 samples, there are 1'
    """
    return percentile_of(measurement, window, "ttft_s", 95)


ENTRY = MetricEntry(
    column=Column(
        key="ttft_p95", title="p95 TTFT", unit="s", better="low", meaning="TTFT that 95 % of the requests stay below"
    ),
    group="latency",
    windows=(SERVED,),
    measure=ttft_p95,
    order=5,
)
