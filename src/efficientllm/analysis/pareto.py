"""The Pareto front of a section: rows that no other beats, and by whom the others are beaten.

A row beats another when it is shown better in one metric and not shown, nor suspected, worse in any: in every other
metric it is better or equivalent, or cannot be told apart while its estimate is no worse. Without intervals (fewer
than three repeats) the estimates decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from efficientllm.analysis.table import Cell, Column
from efficientllm.stats.compare import equivalence, paired

#: At most so many rows are named as those that beat another.
_MOST_NAMED = 3
#: So many rivals are tested, the most superior first: if they cannot be shown to beat a row, the lesser hardly will.
_MOST_TRIED = 64
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
    for name, rivals in _rivals(known, axes).items():
        beaters = (other for other in rivals[:_MOST_TRIED] if _beats(known[other], known[name], axes))
        found[name] = tuple(islice(beaters, _MOST_NAMED))
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


def _rivals(rows: Mapping[str, Mapping[str, Cell]], axes: Sequence[Axis]) -> dict[str, list[str]]:
    """Return the rows whose estimates leave room for beating each row, the most superior first.

    Cheap, so that few pairs are tested: a rival is worse by no more than the margin anywhere, and better somewhere.
    """
    import numpy as np

    names = list(rows)
    values_RA = np.array([[_value(rows[name], axis) for axis in axes] for name in names], dtype=np.float64)
    sign_A = np.array([-1.0 if axis.better == "low" else 1.0 for axis in axes])
    margin_A = np.array([axis.margin for axis in axes])
    found = {}
    for name, own_A in zip(names, values_RA, strict=True):
        gain_RA = (values_RA - own_A) * sign_A / np.where(own_A == 0, 1.0, np.abs(own_A))
        rival_R = (gain_RA >= -margin_A).all(axis=1) & (gain_RA > 0).any(axis=1)
        order = np.argsort(-gain_RA.sum(axis=1), kind="stable")
        found[name] = [names[i] for i in order if rival_R[i]]
    return found


def _beats(one: Mapping[str, Cell], other: Mapping[str, Cell], axes: Sequence[Axis]) -> bool:
    shown = False
    for axis in axes:
        word = _relation(one[axis.key].values, other[axis.key].values, axis)
        if not word:
            return False
        shown = shown or word == "better"
    return shown


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
