"""The training curve of a record: loss against tokens, time and joules, and how a figure is read off it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window

#: The loss at a point of the curve is the mean over so many of the steps before it: one step's loss is mostly chance.
SMOOTHED_SHARE = 0.02


@dataclass(frozen=True)
class TrainingCurve:
    """One run, step by step; time and energy count from the end of the first step, which pays for what is made once.

    Attributes:
        loss: nats a token.
        tokens, seconds, joules: spent when the step ended; joules empty where energy is not known over the whole run,
            and so are seconds where a part of it lies in another attempt's record (`why_no_time`).
    """

    loss: tuple[float, ...]
    tokens: tuple[float, ...]
    seconds: tuple[float, ...]
    joules: tuple[float, ...] = ()

    def loss_at(self, spent: Sequence[float], budget: float) -> float:
        """Return the smoothed loss when so much had been spent.

        >>> curve = TrainingCurve(loss=(5.0, 4.0, 3.0), tokens=(10, 20, 30), seconds=(0.0, 1.0, 2.0))
        >>> curve.loss_at(curve.seconds, 1.5), curve.loss_at(curve.tokens, 30)
        (4.0, 3.0)
        """
        return self.smoothed(max(1, bisect_right(spent, budget)))

    def smoothed(self, steps: int) -> float:
        """Return the mean loss over the last 2 % of so many steps, of one step at least."""
        taken = max(1, round(SMOOTHED_SHARE * steps))
        return sum(self.loss[steps - taken : steps]) / taken

    def step_that_reaches(self, target: float) -> int | None:
        """Return the first step (from 0) whose smoothed loss is at the target or below, or None.

        >>> TrainingCurve(loss=(5.0, 4.0, 3.0), tokens=(), seconds=()).step_that_reaches(4.0)
        1
        """
        sums = [0.0, *accumulate(self.loss)]
        for steps in range(1, len(self.loss) + 1):
            taken = max(1, round(SMOOTHED_SHARE * steps))
            if (sums[steps] - sums[steps - taken]) / taken <= target:
                return steps - 1
        return None


def training_curve(record: Measurement) -> TrainingCurve | None:
    """Return a record's training curve, or None where it holds none of two steps."""
    window = next((w for w in record.windows if w.name in ("curve", "train") and w.find("loss")), None)
    loss = window.find("loss") if window else None
    if window is None or loss is None or len(loss.values) < 2:
        return None
    tokens = tuple(float(step * max(1, window.work.tokens)) for step in range(1, len(loss.values) + 1))
    if why_no_time(record):
        return TrainingCurve(loss=loss.values, tokens=tokens, seconds=())
    return TrainingCurve(
        loss=loss.values,
        tokens=tokens,
        seconds=tuple(at - loss.at_s[0] for at in loss.at_s),
        joules=tuple(_joules_of_all(loss, _energy(record, window))),
    )


def why_no_time(record: Measurement) -> str:
    """Return why a record's curve is known by its tokens alone; empty where it is whole.

    >>> from efficientllm.records.examples import example_measurement
    >>> why_no_time(example_measurement())
    ''
    """
    step = record.figures.get("resumed_step")
    if not step:
        return ""
    return f"resumed: the time and energy before step {step:.0f} are in another attempt's record"


def _energy(record: Measurement, window: Window) -> list[Series]:
    """Return the energy counters of all devices; none unless each has one."""
    windows = [place for place in (window, record.find("train")) if place is not None]
    found = (_counters(place) for place in windows)
    counters = next((series for series in found if series), [])
    return counters if len(counters) == max(1, len(record.environment.devices)) else []


def _counters(window: Window) -> list[Series]:
    return [series for series in window.series if series.name == "energy_j" and len(series.values) > 1]


def _joules_of_all(loss: Series, counters: list[Series]) -> list[float]:
    each = [_joules_at(loss, counter) for counter in counters]
    return [sum(joules) for joules in zip(*each, strict=True)] if all(each) else []


def _joules_at(loss: Series, energy: Series) -> list[float]:
    """Return the energy counter at the times of the losses, from the first on; empty unless it covers them all."""
    if energy.at_s[0] > loss.at_s[0] + 0.05 * (loss.at_s[-1] - loss.at_s[0]):
        return []
    values = [_between(energy, at) for at in loss.at_s]
    return [value - values[0] for value in values]


def _between(series: Series, at: float) -> float:
    right = min(max(bisect_left(series.at_s, at), 1), len(series.at_s) - 1)
    left_s, right_s = series.at_s[right - 1], series.at_s[right]
    share = min(max((at - left_s) / (right_s - left_s), 0.0), 1.0) if right_s > left_s else 0.0
    return series.values[right - 1] * (1 - share) + series.values[right] * share
