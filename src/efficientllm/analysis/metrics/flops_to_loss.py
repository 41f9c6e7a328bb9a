"""FLOPs to loss: model FLOPs of training until the loss that the recipe states."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._target import reached
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def flops_to_loss(measurement: Measurement, window: Window) -> float | Absent:
    """Return the model FLOPs, forward and backward, until the smoothed training loss is at its target.

    Reads: series `loss` of the curve, the model's `train_flops_per_token`; the setting `target_loss`. A loss that was
    not reached has none (censored): the reason says how far training came.

    >>> from efficientllm.analysis.metrics._target import example
    >>> flops_to_loss(*example(target_loss=3.0))
    30000.0
    >>> flops_to_loss(*example(target_loss=1.0)).reason
    'censored: a training loss of 1.00 was not reached in 400 tokens, whose last is 2.00'
    """
    found = reached(measurement)
    if isinstance(found, Absent):
        return found
    if measurement.model is None or not measurement.model.train_flops_per_token:
        return Absent("the model's FLOPs a token were not counted")
    return found.curve.tokens[found.step] * measurement.model.train_flops_per_token


ENTRY = MetricEntry(
    column=Column(
        key="flops_to_loss",
        title="FLOPs to loss",
        unit="flop",
        better="low",
        meaning="model FLOPs of training until the loss that the recipe states",
    ),
    group="compute",
    windows=("train",),
    measure=flops_to_loss,
    order=90,
)
