"""Training curves for the page: loss against tokens, time and joules, thinned to what a screen can show."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from efficientllm.analysis.select import counts, select
from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window

_POINTS = 160
_MOST_CURVES = 120


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """The loss of one run.

    Attributes:
        stage, technique, repeat: whose it is.
        loss: nats a token, means of equally many steps.
        tokens, seconds, joules: at the same points, from the first step on; joules empty where energy is not known.
    """

    stage: str
    technique: str
    repeat: int
    loss: tuple[float, ...]
    tokens: tuple[float, ...]
    seconds: tuple[float, ...]
    joules: tuple[float, ...] = ()


def curves(measurements: Sequence[Measurement]) -> list[Curve]:
    """Return the loss curves of the records that count, at most 120 of them."""
    records = [record for record in select(measurements).records if counts(record)]
    found = [curve for record in records if (curve := _curve(record)) is not None]
    return found[:_MOST_CURVES]


def thinned(values: Sequence[float], number: int = _POINTS) -> tuple[float, ...]:
    """Return at most `number` means of equally long runs of the values.

    >>> thinned([1.0, 3.0, 5.0, 7.0], 2)
    (2.0, 6.0)
    """
    if len(values) <= number:
        return tuple(values)
    edges = [round(i * len(values) / number) for i in range(number + 1)]
    return tuple(sum(values[low:high]) / (high - low) for low, high in pairwise(edges))


def _curve(record: Measurement) -> Curve | None:
    window = next((w for w in record.windows if w.name in ("curve", "train") and w.find("loss")), None)
    loss = window.find("loss") if window else None
    if window is None or loss is None or len(loss.values) < 2:
        return None
    steps = range(1, len(loss.values) + 1)
    joules = _joules_at(loss, _energy(record, window))
    trial = record.trial
    return Curve(
        stage=trial.stage,
        technique=trial.technique(),
        repeat=trial.repeat,
        loss=tuple(round(value, 4) for value in thinned(loss.values)),
        tokens=thinned([float(step * max(1, window.work.tokens)) for step in steps]),
        seconds=tuple(round(at, 3) for at in thinned([at - loss.at_s[0] for at in loss.at_s])),
        joules=tuple(round(value, 3) for value in thinned(joules)),
    )


def _energy(record: Measurement, window: Window) -> Series | None:
    series = window.find("energy_j")
    if series is None:
        train = record.find("train")
        series = train.find("energy_j") if train else None
    return series if series and len(series.values) > 1 else None


def _joules_at(loss: Series, energy: Series | None) -> list[float]:
    """Return the energy counter at the times of the losses, from the first on; empty unless it covers them all."""
    if energy is None or energy.at_s[0] > loss.at_s[0] + 0.05 * (loss.at_s[-1] - loss.at_s[0]):
        return []
    values = [_between(energy, at) for at in loss.at_s]
    return [value - values[0] for value in values]


def _between(series: Series, at: float) -> float:
    right = min(max(bisect_left(series.at_s, at), 1), len(series.at_s) - 1)
    left_s, right_s = series.at_s[right - 1], series.at_s[right]
    share = min(max((at - left_s) / (right_s - left_s), 0.0), 1.0) if right_s > left_s else 0.0
    return series.values[right - 1] * (1 - share) + series.values[right] * share
