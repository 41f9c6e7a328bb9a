"""Technique or implementation: whose order by latency hangs on how well each is implemented."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from efficientllm.analysis.table import Cell

#: Orders are told apart from this relative difference on.
_MARGIN = 0.02


def bound_pairs(latency: Mapping[str, Cell], attained: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the pairs of rows whose order would flip if both attained the same share of the hardware's limit.

    The shortest possible time of a row's own work is its latency times what it attained; where that order is the other
    way round than the measured one, the measured order says as much of the implementations as of the techniques.

    >>> cells = {"a": Cell(value=1.0), "b": Cell(value=2.0), "c": Cell(value=8.0)}
    >>> bound_pairs(cells, {"a": 0.8, "b": 0.2, "c": 0.5})
    [('a', 'b')]
    """
    times = {name: cell.value for name, cell in latency.items() if cell.value and name in attained}
    return [
        (one, other)
        for one, other in combinations(times, 2)
        if _sign(times[one], times[other]) * _sign(times[one] * attained[one], times[other] * attained[other]) < 0
    ]


def _sign(a: float, b: float) -> int:
    if abs(a - b) <= _MARGIN * max(a, b):
        return 0
    return 1 if a > b else -1
