"""Median TPOT of served requests: time of each token after the first piece of a reply."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import SERVED, percentile_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def tpot(measurement: Measurement, window: Window) -> float | Absent:
    """Return the median of TPOT over requests, in seconds. Reads: series `tpot_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> tpot(*measured("serve", tpot_s=series(*([0.25] * 1))))
    0.25
    """
    return percentile_of(measurement, window, "tpot_s", 50)


ENTRY = MetricEntry(
    column=Column(
        key="tpot", title="TPOT", unit="s", better="low", meaning="time of each token after the first piece of a reply"
    ),
    group="latency",
    windows=(SERVED,),
    headline=(SERVED,),
    measure=tpot,
    order=7,
)
