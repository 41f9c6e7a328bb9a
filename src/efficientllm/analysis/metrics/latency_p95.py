"""p95 latency: the step time that 95 % of the steps stay below."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import steps
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.stats.percentile import percentile


def latency_p95(measurement: Measurement, window: Window) -> float | Absent:
    """Return the 95th percentile of step time, in seconds; it needs 200 steps. Reads: series `step_s`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> latency_p95(*measured(step_s=(0.5,) * 200))
    0.5
    >>> latency_p95(*measured(step_s=(0.5,) * 199)).reason
    'p95 needs 200 samples, there are 199'
    """
    values = steps(measurement, window)
    if isinstance(values, Absent):
        return values
    told = percentile(values, 95)
    return Absent(told.absent) if told.value is None else told.value


ENTRY = MetricEntry(
    column=Column(
        key="latency_p95",
        title="p95 latency",
        unit="s",
        better="low",
        meaning="step time that 95 % of the steps stay below",
    ),
    group="latency",
    measure=latency_p95,
    order=2,
)
