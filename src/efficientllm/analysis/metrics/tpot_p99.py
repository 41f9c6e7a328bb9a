"""p99 TPOT of served requests: time of each token after the first piece of a reply."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import SERVED, percentile_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def tpot_p99(measurement: Measurement, window: Window) -> float | Absent:
    """Return the 99th percentile of TPOT over requests, in seconds. Reads: series `tpot_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> tpot_p99(*measured("serve", tpot_s=series(*([0.25] * 1000))))
    0.25
    >>> tpot_p99(*measured("serve", tpot_s=series(0.25))).reason
    'p99 needs 1000 samples, there are 1'
    """
    return percentile_of(measurement, window, "tpot_s", 99)


ENTRY = MetricEntry(
    column=Column(
        key="tpot_p99", title="p99 TPOT", unit="s", better="low", meaning="TPOT that 99 % of the requests stay below"
    ),
    group="latency",
    windows=(SERVED,),
    measure=tpot_p99,
    order=9,
)
