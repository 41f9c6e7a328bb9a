"""When training reached the loss that the recipe states."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from efficientllm.analysis.curve import TrainingCurve, training_curve
from efficientllm.analysis.metrics._contract import Absent
from efficientllm.analysis.metrics._example import facts, measured
from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.settings import PretrainSettings
from efficientllm.records.window import Window, Work
from efficientllm.units import count_text, significant


@dataclass(frozen=True)
class Reached:
    """A training curve and its first step at the target."""

    curve: TrainingCurve
    step: int


def reached(measurement: Measurement) -> Reached | Absent:
    """Return where the smoothed loss of the whole curve comes to the target, or why it does not."""
    settings = measurement.trial.settings
    if not isinstance(settings, PretrainSettings) or not settings.target_loss:
        return Absent("the recipe states no target_loss")
    curve = training_curve(measurement)
    if curve is None:
        return Absent("the loss of each step was not recorded")
    step = curve.step_that_reaches(settings.target_loss)
    if step is not None:
        return Reached(curve, step)
    return Absent(
        f"censored: a training loss of {significant(settings.target_loss)} was not reached in "
        f"{count_text(curve.tokens[-1])} tokens, whose last is {significant(curve.smoothed(len(curve.loss)))}"
    )


def example(target_loss: float) -> tuple[Measurement, Window]:
    """Return four steps of 100 tokens, 1 s and 100 J each, whose loss falls from 5 to 2, and its training window.

    >>> training_curve(example(3.0)[0]).loss
    (5.0, 4.0, 3.0, 2.0)
    """
    measurement, window = measured("train", model=facts(train_flops_per_token=100.0))
    at_s = (1.0, 2.0, 3.0, 4.0)
    loss = Series(name="loss", unit="nats/token", at_s=at_s, values=(5.0, 4.0, 3.0, 2.0))
    energy = Series(name="energy_j", unit="j", at_s=at_s, values=(0.0, 100.0, 200.0, 300.0))
    curve = Window(name="curve", begin_s=0.0, end_s=4.0, work=Work(tokens=100), series=(loss, energy))
    trial = replace(measurement.trial, settings=PretrainSettings(target_loss=target_loss))
    return replace(measurement, trial=trial, windows=(curve, window)), window
