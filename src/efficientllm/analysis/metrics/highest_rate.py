"""Highest rate: the most requests a second that a server takes while its p95 latencies stay within limits."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import FOUND, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def highest_rate(measurement: Measurement, window: Window) -> float | Absent:
    """Return the highest rate that held in each try, in requests a second. Reads: figure `rate_low_per_s`.

    The lowest rate that failed in each try is the figure `rate_high_per_s`: between the two it cannot be told.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> highest_rate(*measured("capacity", figures={"rate_low_per_s": 2.5}))
    2.5
    """
    return find_figure(measurement, window, "rate_low_per_s")


ENTRY = MetricEntry(
    column=Column(
        key="highest_rate",
        title="Highest rate",
        unit="requests/s",
        better="high",
        meaning="most requests a second at which p95 of TTFT and TPOT stay within the limits",
    ),
    group="throughput",
    windows=FOUND,
    headline=FOUND,
    measure=highest_rate,
    order=0,
)
