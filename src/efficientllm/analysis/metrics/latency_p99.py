"""p99 latency: the step time that 99 % of the steps stay below."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import steps
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.stats.percentile import percentile


def latency_p99(measurement: Measurement, window: Window) -> float | Absent:
    """Return the 99th percentile of step time, in seconds; it needs 1,000 steps. Reads: series `step_s`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> latency_p99(*measured(step_s=(0.5,) * 1000))
    0.5
    >>> latency_p99(*measured(step_s=(0.5,) * 999)).reason
    'p99 needs 1000 samples, there are 999'
    """
    values = steps(measurement, window)
    if isinstance(values, Absent):
        return values
    told = percentile(values, 99)
    return Absent(told.absent) if told.value is None else told.value


ENTRY = MetricEntry(
    column=Column(
        key="latency_p99",
        title="p99 latency",
        unit="s",
        better="low",
        meaning="step time that 99 % of the steps stay below",
    ),
    group="latency",
    measure=latency_p99,
    order=3,
)
