"""One number of several metrics: the paper's scaling, and a weighted harmonic mean.

Each metric is scaled by min-max over the rows to [0.1, 1], 1 the best; the score is the weighted harmonic mean of the
scaled values, which a single poor one pulls down. It depends on which rows are there: a score is a place within its
group and means nothing outside. Source: arXiv 2505.13840 for the scaling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from efficientllm.stats.front import probability_highest
from efficientllm.stats.holm import holm
from efficientllm.stats.joint import Joint
from efficientllm.stats.paired import direction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: What the worst row of a metric gets.
LEAST = 0.1
#: Error rate of a table's ranks.
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Score:
    """A row's score.

    Attributes:
        value: the score, from 0.1 to 1.
        parts: metric -> scaled value.
        low, high: within which 95 % of its draws lie, or None without draws.
        first: share of the draws in which it is the highest, or None.
        rank: 1 + the number of rows whose score is shown higher: in so many draws that it would be rare by chance,
            Holm-corrected over all pairs; None without draws. `tied`: another row has the same.
    """

    value: float
    parts: dict[str, float]
    low: float | None = None
    high: float | None = None
    first: float | None = None
    rank: int | None = None
    tied: bool = False


def scores(
    estimates: Mapping[str, Mapping[str, float]],
    better: Mapping[str, str],
    weights: Mapping[str, float],
    drawn: Joint | None = None,
) -> dict[str, Score]:
    """Return each row's score.

    Args:
        estimates: metric -> row -> value; every metric has the same rows.
        better: metric -> `low` or `high`.
        weights: metric -> weight, all above 0.
        drawn: draws of the same metrics and rows, for the interval.

    >>> told = scores({"time": {"a": 1.0, "b": 2.0, "c": 3.0}, "bits": {"a": 2.0, "b": 1.0, "c": 2.0}},
    ...               {"time": "low", "bits": "low"}, {"time": 1.0, "bits": 1.0})
    >>> {name: round(score.value, 3) for name, score in told.items()}
    {'a': 0.182, 'b': 0.71, 'c': 0.1}
    >>> told["b"].parts
    {'time': 0.55, 'bits': 1.0}
    """
    import numpy as np

    metrics, rows = list(estimates), list(next(iter(estimates.values())))
    values_MR = np.array([[estimates[metric][row] for row in rows] for metric in metrics], dtype=np.float64)
    signs_M = np.array([direction(better[metric]) for metric in metrics], dtype=np.float64)
    weights_M = np.array([weights[metric] for metric in metrics], dtype=np.float64)
    scaled_MR = _scaled(values_MR * signs_M[:, None])
    score_R = _harmonic(scaled_MR, weights_M)
    ends: dict[str, tuple[float, float, float]] = {}
    places: dict[str, int] = {}
    if drawn is not None:
        order_M, order_R = [drawn.metrics.index(m) for m in metrics], [drawn.rows.index(r) for r in rows]
        draws_MDR = drawn.values[order_M][:, :, order_R] * signs_M[:, None, None]
        scores_DR = _harmonic(_scaled(draws_MDR), weights_M)
        low_R, high_R = np.quantile(scores_DR, (0.025, 0.975), axis=0).tolist()
        first = probability_highest(scores_DR, rows)
        places = _places(scores_DR, rows)
        ends = {row: (low_R[i], high_R[i], first[row]) for i, row in enumerate(rows)}
    return {
        row: Score(
            value=float(score_R[i]),
            parts=dict(zip(metrics, scaled_MR[:, i].tolist(), strict=True)),
            low=ends[row][0] if ends else None,
            high=ends[row][1] if ends else None,
            first=ends[row][2] if ends else None,
            rank=places.get(row),
            tied=list(places.values()).count(places.get(row, 0)) > 1,
        )
        for i, row in enumerate(rows)
    }


def _places(scores_DR: Array, rows: Sequence[str]) -> dict[str, int]:
    """Return each row's rank; the p-value of a pair is twice the rarer side's share of the draws, never quite 0."""
    import numpy as np

    pairs = list(combinations(range(len(rows)), 2))
    higher = {(i, j): float(np.mean(scores_DR[:, i] > scores_DR[:, j])) for i, j in pairs}
    lower = {(i, j): float(np.mean(scores_DR[:, i] < scores_DR[:, j])) for i, j in pairs}
    least = 1 / (len(scores_DR) + 1)
    told = holm({pair: min(1.0, 2 * max(min(1 - higher[pair], 1 - lower[pair]), least)) for pair in pairs})
    beaten = [0] * len(rows)
    for (i, j), p_value in told.items():
        if p_value is not None and p_value < ALPHA:
            beaten[j if higher[i, j] > lower[i, j] else i] += 1
    return {row: 1 + beaten[index] for index, row in enumerate(rows)}


def _scaled(gains: Array) -> Array:
    """Scale over the last axis, the rows, to [0.1, 1]; rows that are all the same get 1."""
    import numpy as np

    least, most = gains.min(axis=-1, keepdims=True), gains.max(axis=-1, keepdims=True)
    width = np.where(most > least, most - least, 1.0)
    return np.asarray(np.where(most > least, LEAST + (1 - LEAST) * (gains - least) / width, 1.0))


def _harmonic(scaled: Array, weights_M: Array) -> Array:
    """Return the weighted harmonic mean over the first axis, the metrics."""
    import numpy as np

    return np.asarray(weights_M.sum() / sum(weight / part for weight, part in zip(weights_M, scaled, strict=True)))
