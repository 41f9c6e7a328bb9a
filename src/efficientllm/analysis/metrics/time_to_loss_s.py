"""Time to loss: training time until the loss that the recipe states."""

from __future__ import annotations

from efficientllm.analysis.curve import why_no_time
from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._target import reached
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def time_to_loss_s(measurement: Measurement, window: Window) -> float | Absent:
    """Return the seconds from the end of the first step until the smoothed training loss is at its target.

    Reads: series `loss` of the curve; the setting `target_loss`. A loss that was not
    reached has none (censored): the reason says how far training came.

    >>> from efficientllm.analysis.metrics._target import example
    >>> time_to_loss_s(*example(target_loss=3.0))
    2.0
    >>> time_to_loss_s(*example(target_loss=1.0)).reason
    'censored: a training loss of 1.00 was not reached in 400 tokens, whose last is 2.00'
    """
    found = reached(measurement)
    if isinstance(found, Absent):
        return found
    resumed = why_no_time(measurement)
    return Absent(resumed) if resumed else found.curve.seconds[found.step]


ENTRY = MetricEntry(
    column=Column(
        key="time_to_loss_s",
        title="Time to loss",
        unit="s",
        better="low",
        meaning="training time until the loss that the recipe states",
    ),
    group="latency",
    windows=("train",),
    measure=time_to_loss_s,
    order=90,
)
