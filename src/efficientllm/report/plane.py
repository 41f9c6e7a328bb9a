"""Who is beaten on two metrics: what the page's chart of trade-offs (`front.js`) and the figure on paper draw.

One beats another that it equals or betters in both estimates and betters in one. It beats it beyond the intervals
where, of one metric at least, its worse end is better than the other's better end. An estimate without an interval is
its own interval. (`analysis/pareto.py` makes the front of a table: of three metrics, paired by round.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.analysis.table import Cell


@dataclass(frozen=True)
class Standing:
    """How a technique stands: on the front of the two by the estimates, and who beats it beyond the intervals."""

    front: bool
    beaten_by: tuple[str, ...]


@dataclass(frozen=True)
class _Worth:
    estimate: float
    least: float
    most: float


def standings(points: Sequence[tuple[str, Cell, Cell]], better: tuple[str, str]) -> dict[str, Standing]:
    """Return each technique's standing; none where a metric has no better side.

    Args:
        points: name and its two cells, each with a value.
        better: the better side of each metric, `low` or `high`.

    >>> cell = lambda value, half: Cell(value=value, low=value - half, high=value + half)
    >>> found = standings([("a", cell(1, 0.1), cell(2, 0.1)), ("b", cell(1.1, 0.1), cell(2, 0.1)),
    ...                    ("c", cell(3, 0.1), cell(2, 0.1))], ("low", "low"))
    >>> [(name, one.front, one.beaten_by) for name, one in found.items()]
    [('a', True, ()), ('b', False, ()), ('c', False, ('a', 'b'))]
    """
    if not all(better):
        return {}
    worth = {name: (_worth(x, better[0]), _worth(y, better[1])) for name, x, y in points}
    return {
        name: Standing(
            front=not any(_beats(other, own) for other in worth.values()),
            beaten_by=tuple(rival for rival, other in worth.items() if _beyond(other, own)),
        )
        for name, own in worth.items()
    }


def _worth(cell: Cell, better: str) -> _Worth:
    value = cell.value if cell.value is not None else 0.0
    low, high = value if cell.low is None else cell.low, value if cell.high is None else cell.high
    return _Worth(-value, -high, -low) if better == "low" else _Worth(value, low, high)


def _beats(one: tuple[_Worth, _Worth], other: tuple[_Worth, _Worth]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a.estimate >= b.estimate for a, b in pairs) and any(a.estimate > b.estimate for a, b in pairs)


def _beyond(one: tuple[_Worth, _Worth], other: tuple[_Worth, _Worth]) -> bool:
    return _beats(one, other) and any(a.least > b.most for a, b in zip(one, other, strict=True))
