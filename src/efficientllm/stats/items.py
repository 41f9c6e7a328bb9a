"""Two models compared on the same items: rows of text, or questions.

What the items have in common cancels in the difference of each. The items are drawn from a text, the rounds from what
training gives; a conclusion needs both, so that the wider of the two intervals is the one that is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from efficientllm.stats.interval import mean_and_spread
from efficientllm.stats.paired import FEWEST_ROUNDS, Comparison, direction
from efficientllm.stats.student import t_quantile, t_upper_tail

#: round -> a value of each item.
Items = Mapping[int, Sequence[float]]


def paired_items(a: Items, b: Items, better: str, *, confidence: float = 0.95) -> Comparison:
    """Compare `a` with `b` over the items of the rounds that both have, on the scale of the items.

    Over items: Student's t on each item's difference, its mean over the rounds. Over rounds: likewise on each round's
    mean difference, from three rounds on whose differences differ. Of the two the less sure one is told: its number,
    its standard error and the larger p-value.

    Args:
        a: the values looked at.
        b: those of the baseline, of the same items in the same order.
        better: `low` or `high`.
        confidence: of the interval, as a ratio to the baseline's mean.

    Raises:
        ValueError: a round has other items in `a` than in `b`.

    >>> told = paired_items({0: [1.1, 2.2, 3.1, 4.0]}, {0: [1.0, 2.0, 3.0, 4.0]}, "low")
    >>> round(told.shift, 3), told.n, round(told.ratio, 3), told.improves
    (0.1, 4, 1.04, False)
    """
    rounds = sorted(a.keys() & b.keys())
    if any(len(a[r]) != len(b[r]) or len(a[r]) != len(a[rounds[0]]) for r in rounds):
        raise ValueError("the two have other items: their rows cannot be paired")
    if not rounds or not a[rounds[0]]:
        return Comparison(n=0, scale="linear", reason="no item in common")
    differences = [[x - y for x, y in zip(a[r], b[r], strict=True)] for r in rounds]
    of_items = [math.fsum(column) / len(rounds) for column in zip(*differences, strict=True)]
    of_rounds = [math.fsum(row) / len(row) for row in differences]
    size = math.fsum(abs(y) for r in rounds for y in b[r]) / sum(len(b[r]) for r in rounds)
    samples = [of_items] if len(of_items) > 1 else []
    if len(rounds) >= FEWEST_ROUNDS and mean_and_spread(of_rounds)[1] > 0:
        samples.append(of_rounds)
    shift = math.fsum(of_rounds) / len(of_rounds)
    if not samples:
        return Comparison(n=1, scale="linear", shift=shift, size=size, reason="1 item in common: no test below 2")
    widest = max(samples, key=lambda points: _half(points, confidence))
    error = _error(widest)
    half = _half(widest, confidence)
    return Comparison(
        ratio=1 + shift / size if size else None,
        low=1 + (shift - half) / size if size and half else None,
        high=1 + (shift + half) / size if size and half else None,
        p_value=max(_p_value(shift, points) for points in samples),
        n=len(widest),
        improves=shift * direction(better) > 0,
        reason="" if half else "the same difference in all items: exact",
        scale="linear",
        shift=shift,
        standard_error=error,
        size=size,
    )


def _error(points: Sequence[float]) -> float:
    return mean_and_spread(points)[1] / math.sqrt(len(points))


def _half(points: Sequence[float], confidence: float) -> float:
    return t_quantile((1 + confidence) / 2, len(points) - 1) * _error(points)


def _p_value(shift: float, points: Sequence[float]) -> float:
    error = _error(points)
    if error == 0.0:
        return 1.0 if shift == 0.0 else 0.0
    return 2 * t_upper_tail(abs(shift) / error, len(points) - 1)
