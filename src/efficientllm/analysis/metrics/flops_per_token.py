"""Model FLOPs a token: the arithmetic that the technique needs, counted from shapes."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def flops_per_token(measurement: Measurement, window: Window) -> float | Absent:
    """Return the floating-point operations of a step over its tokens.

    Counts: what the model needs (causal attention half, active experts only, no recompute). Reads: work.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> from efficientllm.records.window import Work
    >>> flops_per_token(*measured(work=Work(tokens=10, model_flops=1e6)))
    100000.0
    """
    work = window.work
    if work.tokens <= 0 or work.model_flops <= 0:
        return Absent(f"the work of a {window.name} step was not counted in model FLOPs and tokens")
    return work.model_flops / work.tokens


ENTRY = MetricEntry(
    column=Column(
        key="flops_per_token",
        title="FLOPs a token",
        unit="flop/token",
        better="low",
        meaning="floating-point operations that the model needs for a token, counted from shapes",
    ),
    group="compute",
    measure=flops_per_token,
    judges="compute",
    order=7,
)
