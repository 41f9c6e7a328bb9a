"""p95 TPOT of served requests: time of each token after the first piece of a reply."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import SERVED, percentile_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def tpot_p95(measurement: Measurement, window: Window) -> float | Absent:
    """Return the 95th percentile of TPOT over requests, in seconds. Reads: series `tpot_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> tpot_p95(*measured("serve", tpot_s=series(*([0.25] * 200))))
    0.25
    >>> tpot_p95(*measured("serve", tpot_s=series(0.25))).reason
    'p95 needs 200 samples, there are 1'
    """
    return percentile_of(measurement, window, "tpot_s", 95)


ENTRY = MetricEntry(
    column=Column(
        key="tpot_p95", title="p95 TPOT", unit="s", better="low", meaning="TPOT that 95 % of the requests stay below"
    ),
    group="latency",
    windows=(SERVED,),
    measure=tpot_p95,
    order=8,
)
