"""How probable it is that a row is the best of its table.

Model: logarithm of a value = row + round + noise, the noise normal and as large in every row. Given the data and no
prior opinion, the row effects follow a joint t: centred on the row means, scaled by the noise over the root of the
number of rounds, with (rounds - 1)(rows - 1) degrees of freedom. With two rows this is the paired t-test's one-sided
p-value. It describes; it is no test, and verdicts and ranks do not use it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from efficientllm.stats.interval import SAME, require_finite
from efficientllm.stats.paired import FEWEST_ROUNDS, direction


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
    rows: Mapping[str, Mapping[int, float]], better: str, *, draws: int = 20_000, seed: int = 0
) -> Best:
    """Return how often each row comes out best in `draws` of the joint t; the same seed gives the same answer.

    >>> rows = {"a": {0: 1.00, 1: 1.02, 2: 1.01}, "b": {0: 1.5, 1: 1.52, 2: 1.51}}
    >>> probability_best(rows, "low").probability["a"] > 0.99
    True
    >>> probability_best({"a": {0: 1.0}, "b": {0: 2.0}}, "low").reason
    '1 round that all rows have: 3 are needed'
    """
    import numpy as np

    sign = direction(better)
    rounds = sorted(set.intersection(*(set(values) for values in rows.values()))) if rows else []
    if len(rows) < 2:
        return Best(probability={}, n=len(rounds), reason="fewer than two rows")
    if len(rounds) < FEWEST_ROUNDS:
        noun = "round" if len(rounds) == 1 else "rounds"
        reason = f"{len(rounds)} {noun} that all rows have: {FEWEST_ROUNDS} are needed"
        return Best(probability={}, n=len(rounds), reason=reason)
    table = np.array([[values[r] for r in rounds] for values in rows.values()], dtype=np.float64)
    require_finite(table.ravel().tolist())
    points = sign * (np.log(table) if (table > 0).all() else table)
    centers = points.mean(axis=1)
    rest = points - centers[:, None] - points.mean(axis=0) + points.mean()
    df = (len(rounds) - 1) * (len(rows) - 1)
    noise = math.sqrt(float((rest**2).sum()) / df / len(rounds))
    if noise <= SAME * max(1.0, float(np.abs(points).max())):
        wins = np.isclose(centers, centers.max(), rtol=0, atol=SAME).astype(np.float64)
    else:
        rng = np.random.default_rng(seed)
        scale = noise * np.sqrt(df / rng.chisquare(df, size=(draws, 1)))
        drawn = centers + scale * rng.standard_normal((draws, len(rows)))
        wins = np.bincount(drawn.argmax(axis=1), minlength=len(rows)).astype(np.float64)
    shares = (wins / wins.sum()).tolist()
    return Best(probability=dict(zip(rows, shares, strict=True)), n=len(rounds))
