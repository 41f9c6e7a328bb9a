"""Failed requests: the share that a server refused, broke off, or did not end in time."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import SERVED, find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def failed_requests(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of failed requests. Reads: figures `failed_requests`, `ended_requests`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> failed_requests(*measured("serve", figures={"failed_requests": 1.0, "ended_requests": 3.0}))
    0.25
    """
    failed = find_figure(measurement, window, "failed_requests")
    ended = find_figure(measurement, window, "ended_requests")
    if isinstance(failed, Absent) or isinstance(ended, Absent):
        return failed if isinstance(failed, Absent) else ended
    return failed / (failed + ended) if failed + ended else Absent("no request ended in this window")


ENTRY = MetricEntry(
    column=Column(
        key="failed_requests",
        title="Failed",
        unit="ratio",
        better="low",
        meaning="share of requests that were refused, broken off, or not ended in time",
    ),
    group="latency",
    windows=(SERVED,),
    measure=failed_requests,
    order=10,
)
