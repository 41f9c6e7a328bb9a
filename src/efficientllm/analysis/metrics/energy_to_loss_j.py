"""Energy to loss: energy of training until the loss that the recipe states."""

from __future__ import annotations

from efficientllm.analysis.curve import why_no_time
from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import why_absent
from efficientllm.analysis.metrics._target import reached
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def energy_to_loss_j(measurement: Measurement, window: Window) -> float | Absent:
    """Return the joules, gross, from the end of the first step until the smoothed training loss is at its target.

    Reads: series `loss` of the curve, `energy_j`; the setting `target_loss`. A loss that was not
    reached has none (censored): the reason says how far training came.

    >>> from efficientllm.analysis.metrics._target import example
    >>> energy_to_loss_j(*example(target_loss=3.0))
    200.0
    >>> energy_to_loss_j(*example(target_loss=1.0)).reason
    'censored: a training loss of 1.00 was not reached in 400 tokens, whose last is 2.00'
    """
    found = reached(measurement)
    if isinstance(found, Absent):
        return found
    resumed = why_no_time(measurement)
    if resumed:
        return Absent(resumed)
    if not found.curve.joules:
        return why_absent(measurement, window, "energy_j")
    return found.curve.joules[found.step]


ENTRY = MetricEntry(
    column=Column(
        key="energy_to_loss_j",
        title="Energy to loss",
        unit="j",
        better="low",
        meaning="energy of training until the loss that the recipe states",
    ),
    group="energy",
    windows=("train",),
    measure=energy_to_loss_j,
    order=90,
)
