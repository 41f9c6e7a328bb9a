"""How probable it is that a row is the best of its table.

Model: logarithm of a value = row + round + noise, the noise normal and as large in every row. Given the data and no
prior opinion, the row effects follow a joint t (`joint` draws from it): centred on the row means, scaled by the noise
over the root of the number of rounds, with (rounds - 1)(rows - 1) degrees of freedom. With two rows this is the paired
t-test's one-sided p-value. It describes; it is no test, and verdicts and ranks do not use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from efficientllm.stats.interval import SAME
from efficientllm.stats.joint import DRAWS, Joint, joint
from efficientllm.stats.paired import direction


@dataclass(frozen=True, kw_only=True)
class Best:
    """The probability of being best, by row.

    Attributes:
        probability: row -> probability; those of a table sum to 1. Empty where it cannot be told.
        n: number of rounds that all rows have.
        reason: why it is empty, else empty.
    """

    probability: dict[str, float]
    n: int
    reason: str = ""


def probability_best(
    rows: Mapping[str, Mapping[int, float]], better: str, *, draws: int = DRAWS, seed: int = 0
) -> Best:
    """Return how often each row comes out best in `draws` of the joint t; the same seed gives the same answer.

    >>> rows = {"a": {0: 1.00, 1: 1.02, 2: 1.01}, "b": {0: 1.5, 1: 1.52, 2: 1.51}}
    >>> probability_best(rows, "low").probability["a"] > 0.99
    True
    >>> probability_best({"a": {0: 1.0}, "b": {0: 2.0}}, "low").reason
    '1 round that all rows have: 3 are needed'
    """
    drawn = joint({"": rows}, draws=draws, seed=seed)
    if isinstance(drawn, str):
        direction(better)
        held = [set(values) for values in rows.values()]
        return Best(probability={}, n=len(set.intersection(*held)) if held else 0, reason=drawn)
    return Best(probability=share_best(drawn, better), n=drawn.n)


def share_best(drawn: Joint, better: str) -> dict[str, float]:
    """Return row -> probability of being best, from draws of one metric."""
    import numpy as np

    gains = direction(better) * drawn.values[0]
    if (gains == gains[0]).all():  # no noise: what is the same shares the place
        wins = np.isclose(gains[0], gains[0].max(), rtol=SAME, atol=SAME).astype(np.float64)
    else:
        wins = np.bincount(gains.argmax(axis=1), minlength=len(drawn.rows)).astype(np.float64)
    return dict(zip(drawn.rows, (wins / wins.sum()).tolist(), strict=True))
