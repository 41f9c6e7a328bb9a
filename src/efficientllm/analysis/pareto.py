"""The Pareto front of a section: rows that no other beats, and by whom the others are beaten.

A row beats another when it is shown better in one metric and not shown, nor suspected, worse in any: in every other
metric it is better or equivalent, or cannot be told apart while its estimate is no worse. Without intervals (fewer
than three repeats) the estimates decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from efficientllm.analysis.table import Cell, Column
from efficientllm.stats.compare import equivalence, paired

#: At most so many rows are named as those that beat another.
_MOST_NAMED = 3
_ALPHA = 0.05


@dataclass(frozen=True)
class Axis:
    """One metric that counts for the front."""

    key: str
    better: str
    margin: float


def front(rows: Mapping[str, Mapping[str, Cell]], axes: Sequence[Axis]) -> dict[str, tuple[str, ...]]:
    """Return each row with the rows that beat it; a row with none is on the front.

    Rows without a value on one of the axes are left out.

    >>> rows = {"a": {"t": Cell(value=1.0, values={0: 1.0}), "q": Cell(value=2.0, values={0: 2.0})},
    ...         "b": {"t": Cell(value=2.0, values={0: 2.0}), "q": Cell(value=1.0, values={0: 1.0})},
    ...         "c": {"t": Cell(value=3.0, values={0: 3.0}), "q": Cell(value=2.5, values={0: 2.5})}}
    >>> front(rows, [Axis("t", "low", 0.0), Axis("q", "low", 0.0)])
    {'a': (), 'b': (), 'c': ('b', 'a')}
    """
    known = {name: cells for name, cells in rows.items() if all(_value(cells, axis) is not None for axis in axes)}
    found = {}
    for name, cells in known.items():
        rivals = [other for other in known if other != name and _may_beat(known[other], cells, axes)]
        rivals.sort(key=lambda other: _advantage(known[other], cells, axes), reverse=True)
        beaten_by: list[str] = []
        for other in rivals:
            if len(beaten_by) < _MOST_NAMED and _beats(known[other], cells, axes):
                beaten_by.append(other)
        found[name] = tuple(beaten_by)
    return found


def axes_of(columns: Sequence[Column], margins: Mapping[str, float], rows: Mapping[str, Mapping[str, Cell]],
            keys: Sequence[str]) -> list[Axis]:  # fmt: skip
    """Return those of `keys` that some row has a value for, as axes."""
    return [
        Axis(column.key, column.better, margins.get(column.key, 0.0))
        for column in columns
        if column.key in keys and column.better and any(_value(cells, column) is not None for cells in rows.values())
    ]


def _value(cells: Mapping[str, Cell], axis: Axis | Column) -> float | None:
    cell = cells.get(axis.key)
    return cell.value if cell else None


def _gain(one: Mapping[str, Cell], other: Mapping[str, Cell], axis: Axis) -> float:
    """How much better `one`'s estimate is, relative to `other`'s."""
    a, b = one[axis.key].value, other[axis.key].value
    assert a is not None and b is not None  # rows without a value were left out
    difference = b - a if axis.better == "low" else a - b
    return difference / abs(b) if b else difference


def _advantage(one: Mapping[str, Cell], other: Mapping[str, Cell], axes: Sequence[Axis]) -> float:
    return sum(_gain(one, other, axis) for axis in axes)


def _may_beat(one: Mapping[str, Cell], other: Mapping[str, Cell], axes: Sequence[Axis]) -> bool:
    """Whether the estimates leave room for beating; cheap, so that tests are few."""
    gains = [_gain(one, other, axis) for axis in axes]
    return all(gain >= -axis.margin for gain, axis in zip(gains, axes, strict=True)) and any(gain > 0 for gain in gains)


def _beats(one: Mapping[str, Cell], other: Mapping[str, Cell], axes: Sequence[Axis]) -> bool:
    words = [_relation(one[axis.key].values, other[axis.key].values, axis) for axis in axes]
    return all(words) and "better" in words


def _relation(one: Mapping[int, float], other: Mapping[int, float], axis: Axis) -> str:
    """Return `better` or `level`, or an empty string where `one` is, or may well be, worse."""
    compared = paired(one, other, axis.better)
    if compared.p_value is None:
        return "better" if compared.improves else ("level" if compared.shift == 0 else "")
    same = equivalence(compared, axis.margin)
    if same is not None and same < _ALPHA / 2:
        return "level"
    if compared.p_value < _ALPHA and compared.shift != 0:
        return "better" if compared.improves else ""
    return "level" if compared.improves or compared.shift == 0 else ""
