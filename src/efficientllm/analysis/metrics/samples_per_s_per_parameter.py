"""The paper's ST: samples a second over the parameters that one token uses."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import model_facts
from efficientllm.analysis.metrics.samples_per_s import samples_per_s
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def samples_per_s_per_parameter(measurement: Measurement, window: Window) -> float | Absent:
    """Return samples a second over active parameters. Reads: what `samples_per_s` reads, and the model's counts.

    The paper's form: a model twice as large at half the speed scores a quarter, so it says little of a technique.
    Source: arXiv 2505.13840, ST.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> from efficientllm.records.window import Work
    >>> samples_per_s_per_parameter(*measured(work=Work(samples=1000), step_s=(0.5,), model=facts(active=500)))
    4.0
    """
    rate, counts = samples_per_s(measurement, window), model_facts(measurement)
    if isinstance(rate, Absent):
        return rate
    return counts if isinstance(counts, Absent) else rate / counts.parameters_active


ENTRY = MetricEntry(
    column=Column(
        key="samples_per_s_per_parameter",
        title="Samples a parameter",
        symbol="ST",
        unit="samples/s/parameter",
        better="high",
        meaning="samples a second over active parameters, the paper's ST",
    ),
    group="throughput",
    measure=samples_per_s_per_parameter,
    order=3,
)
