"""All pairs of a table's rows compared at once: what `paired` and `equivalence` say of each, in one calculation.

A table of 16 rows has 120 pairs a metric, and a large study thousands of tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from efficientllm.stats.interval import SAME, require_finite
from efficientllm.stats.paired import FEWEST_ROUNDS, direction, equivalence, paired

Rows = Mapping[str, Mapping[int, float]]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Compared:
    """What a pair of rows is judged by; the fields are those of `paired.Comparison`, `p_same` from `equivalence`."""

    p_value: float | None
    p_same: float | None
    improves: bool


def compared_pairs(rows: Rows, better: str, margin: float, resolution: float = 0.0) -> dict[Pair, Compared]:
    """Compare each row with each later one.

    >>> rows = {"a": {0: 1.00, 1: 1.01, 2: 1.02}, "b": {0: 2.0, 1: 2.01, 2: 2.04}, "c": {0: 1.8, 1: 2.3, 2: 0.9}}
    >>> {pair: round(one.p_value, 4) for pair, one in compared_pairs(rows, "low", 0.02).items()}
    {('a', 'b'): 0.0, ('a', 'c'): 0.2716, ('b', 'c'): 0.4552}
    """
    rounds = sorted(next(iter(rows.values()), {}))
    alike = all(values.keys() == set(rounds) for values in rows.values())
    if alike and len(rows) > 2 and rounds and not resolution and _positive(rows):
        return _at_once(rows, rounds, better, margin)
    found = {}
    for one, other in combinations(rows, 2):
        told = paired(rows[one], rows[other], better, resolution=resolution)
        found[one, other] = Compared(told.p_value, equivalence(told, margin), told.improves)
    return found


def _positive(rows: Rows) -> bool:
    return all(value > 0 for values in rows.values() for value in values.values())


def _at_once(rows: Rows, rounds: list[int], better: str, margin: float) -> dict[Pair, Compared]:
    """Compare rows that all have the same rounds and positive values, so that all is on the log scale."""
    import numpy as np
    from scipy.special import stdtr

    for values in rows.values():
        require_finite(list(values.values()))
    sign, n = direction(better), len(rounds)
    logs_RN = np.log(np.array([[values[r] for r in rounds] for values in rows.values()]))
    first_P, second_P = np.triu_indices(len(rows), k=1)
    points_PN = logs_RN[first_P] - logs_RN[second_P]
    shift_P = points_PN.mean(axis=1)
    improves = (shift_P * sign > 0).tolist()
    pairs = list(combinations(rows, 2))
    if n < FEWEST_ROUNDS:
        return {pair: Compared(None, None, better) for pair, better in zip(pairs, improves, strict=True)}
    spread_P = points_PN.std(axis=1, ddof=1)
    spread_P[spread_P <= SAME * np.maximum(1.0, np.abs(points_PN).max(axis=1))] = 0.0
    error_P = spread_P / math.sqrt(n)
    exact_P, scale_P = error_P == 0, np.where(error_P == 0, 1.0, error_P)

    def beyond(distance_P: np.ndarray) -> np.ndarray:
        return np.where(exact_P, np.where(distance_P >= 0, 0.0, 1.0), stdtr(n - 1, -distance_P / scale_P))

    bound = math.log1p(margin)
    same_P = np.maximum(beyond(bound - shift_P), beyond(bound + shift_P))
    differ_P = np.where(exact_P, np.where(shift_P == 0, 1.0, 0.0), 2 * stdtr(n - 1, -np.abs(shift_P) / scale_P))
    told = zip(pairs, differ_P.tolist(), same_P.tolist(), improves, strict=True)
    return {pair: Compared(p_value, p_same, better) for pair, p_value, p_same, better in told}
