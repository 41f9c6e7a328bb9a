"""Training curves for the page: loss against tokens, time and joules, thinned to what a screen can show."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise

import msgspec

from efficientllm.analysis.curve import training_curve
from efficientllm.analysis.select import counts, select
from efficientllm.records.measurement import Measurement

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
    found = (curve for record in records if (curve := _curve(record)) is not None)
    return list(islice(found, _MOST_CURVES))  # no more than these are computed


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
    found = training_curve(record)
    if found is None:
        return None
    trial = record.trial
    return Curve(
        stage=trial.stage,
        technique=trial.technique(),
        repeat=trial.repeat,
        loss=tuple(round(value, 4) for value in thinned(found.loss)),
        tokens=thinned(found.tokens),
        seconds=tuple(round(at, 3) for at in thinned(found.seconds)),
        joules=tuple(round(value, 3) for value in thinned(found.joules)),
    )
