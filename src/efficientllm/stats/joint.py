"""What the true figures of a table may be: draws of all rows and metrics together.

Each metric by itself is the joint t of `best`: log value = row + round + noise, the noise normal and as large in every
row, no prior opinion. Between metrics the noise goes together as it did over the rounds (a slow round costs time and
joules), so one row's draws of two metrics are correlated as their residuals are; one scale a draw is shared by all
metrics. Whatever is made of several metrics at once (who is on the front, a score) is made of each draw.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efficientllm.stats.interval import SAME, require_finite
from efficientllm.stats.paired import FEWEST_ROUNDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Enough to tell a probability to 0.7 % (its standard error, at a half).
DRAWS = 5_000


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Draws of a table.

    Attributes:
        metrics, rows: their names, in the order of the axes below.
        values: [metrics, draws, rows], in the metrics' own units.
        n: rounds that all rows have in all metrics.
    """

    metrics: tuple[str, ...]
    rows: tuple[str, ...]
    values: Array
    n: int

    def of(self, metrics: Sequence[str]) -> Joint:
        """Return the draws of some of the metrics."""
        chosen = [self.metrics.index(metric) for metric in metrics]
        values = self.values[chosen[0]][None] if len(chosen) == 1 else self.values[chosen]
        return Joint(metrics=tuple(metrics), rows=self.rows, values=values, n=self.n)


def joint(table: Mapping[str, Mapping[str, Mapping[int, float]]], *, draws: int = DRAWS, seed: int = 0) -> Joint | str:
    """Return draws of metric -> row -> round -> value, or why there are none; the same seed gives the same.

    Args:
        table: every metric has the same rows.
        draws: how many.
        seed: of the draws.

    >>> rows = {"a": {0: 1.00, 1: 1.02, 2: 1.01}, "b": {0: 1.5, 1: 1.52, 2: 1.51}}
    >>> joint({"time": rows, "bits": rows}).values.shape
    (2, 5000, 2)
    >>> joint({"time": {"a": {0: 1.0}, "b": {0: 2.0}}})
    '1 round that all rows have: 3 are needed'
    """
    import numpy as np

    names = tuple(next(iter(table.values()), {}))
    held = [set(values) for rows in table.values() for values in rows.values()]
    rounds = sorted(set.intersection(*held)) if held else []
    if len(names) < 2:
        return "fewer than two rows"
    if len(rounds) < FEWEST_ROUNDS:
        noun = "round" if len(rounds) == 1 else "rounds"
        return f"{len(rounds)} {noun} that all rows have: {FEWEST_ROUNDS} are needed"
    values_MRN = np.array([[[rows[name][r] for r in rounds] for name in names] for rows in table.values()])
    require_finite(values_MRN.ravel().tolist())
    logs_M = np.asarray((values_MRN > 0).all(axis=(1, 2)))
    points_MRN = np.where(logs_M[:, None, None], np.log(np.where(values_MRN > 0, values_MRN, 1.0)), values_MRN)
    centers_MR, noise_M, correlation_MM = _fitted(points_MRN)
    df = (len(rounds) - 1) * (len(names) - 1)
    normal_DRM = _normals(draws, len(names), len(table), seed) @ _root(correlation_MM).T
    scale_D = _scales(draws, df, seed)
    drawn_MDR = centers_MR[:, None, :] + noise_M[:, None, None] * scale_D[None, :, None] * normal_DRM.transpose(2, 0, 1)
    drawn_MDR[logs_M] = np.exp(drawn_MDR[logs_M])
    return Joint(metrics=tuple(table), rows=names, values=drawn_MDR, n=len(rounds))


def _fitted(points_MRN: Array) -> tuple[Array, Array, Array]:
    """Return rows' means, by metric the standard error of one (0 where nothing varies), and the noise's correlation."""
    import numpy as np

    num_rows, num_rounds = points_MRN.shape[1:]
    centers_MR = points_MRN.mean(axis=2)
    rest_MRN = (
        points_MRN - centers_MR[:, :, None] - points_MRN.mean(axis=1, keepdims=True)
        + points_MRN.mean(axis=(1, 2), keepdims=True)
    )  # fmt: skip
    rest_MP = rest_MRN.reshape(len(points_MRN), -1)
    squares_M = (rest_MP**2).sum(axis=1)
    noise_M = np.sqrt(squares_M / ((num_rounds - 1) * (num_rows - 1)) / num_rounds)
    exact_M = noise_M <= SAME * np.maximum(1.0, np.abs(points_MRN).max(axis=(1, 2)))
    noise_M[exact_M] = 0.0
    unit_MP = np.where(exact_M[:, None], 0.0, rest_MP / np.sqrt(np.where(exact_M, 1.0, squares_M))[:, None])
    correlation_MM = unit_MP @ unit_MP.T
    np.fill_diagonal(correlation_MM, 1.0)
    return centers_MR, noise_M, correlation_MM


def _root(correlation_MM: Array) -> Array:
    """Return L with L Lᵀ = the correlation, which may well be singular (a rate is the reciprocal of a time)."""
    import numpy as np

    values_M, vectors_MM = np.linalg.eigh(correlation_MM)
    return np.asarray(vectors_MM * np.sqrt(np.clip(values_M, 0.0, None)))


@functools.lru_cache(maxsize=8)
def _normals(draws: int, num_rows: int, num_metrics: int, seed: int) -> Array:
    import numpy as np

    return np.random.default_rng(seed).standard_normal((draws, num_rows, num_metrics))


@functools.lru_cache(maxsize=64)
def _scales(draws: int, df: int, seed: int) -> Array:
    """Return by how much the noise may be larger than its estimate: what makes a t of a normal."""
    import numpy as np

    return np.asarray(np.sqrt(df / np.random.default_rng([seed, df]).chisquare(df, size=draws)))
