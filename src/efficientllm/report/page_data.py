"""A study's tables as the page's scripts take them: columns of plain figures, written once, drawn when they are seen.

    {"tables": [{"id": "s1", "place": "measured", "columns": [0, 1, …], "heads": [0, …], "names": […], …,
                 "cells": {"latency_median": {"v": […], "lo": […], …}}}],
     "columns": [{"key", "title", "unit", …}], "records": {"id": […], "stage": …}, "reasons": […]}

A cell's parts are lists over the table's rows: `v` value, `lo` and `hi` ends of its 95 % interval, `r`, `rl`, `rh`
ratio to the baseline and its interval, `w` verdict (first letter), `k` rank (negative where shared), `n` values by
repeat, `t` words in a figure's place, `a` number of the reason for its absence, `y` of the reason for no interval. A
part that no row has is left out, and so is the end of a list of nulls. Where a column has an `i`, its parts are lists
over those rows, and all others have the one reason `rest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from efficientllm.analysis.catalogue import entry_of, group_of
from efficientllm.analysis.table import Cell, Column, Row, Section
from efficientllm.records.measurement import Measurement
from efficientllm.report import marks
from efficientllm.report.fitting import LEFT_OUT
from efficientllm.report.marks import Footnotes

#: Digits of values, of the ends of their intervals, of ratios.
_DIGITS, _END_DIGITS, _RATIO_DIGITS = 6, 5, 4
#: Rows that beat a row are named up to here.
_MOST_NAMED = 4
#: Ends the metric's name in a column's key: `bits_per_byte.code`, `latency_median@decode batch=1`.
_METRIC = re.compile("[.@]")
#: verdict -> its letter.
_LETTERS = {"better": "b", "worse": "w", "equivalent": "e", "unresolved": "u"}


@dataclass
class PageTables:
    """Collects tables that share their records and reasons.

    Attributes:
        notes: reasons for absent figures, numbered as they are met.
        tables, columns, sources: what was added; tables name columns and sources by number, since many have the same.
        measurements: by id.
    """

    measurements: Mapping[str, Measurement]
    notes: Footnotes = field(default_factory=Footnotes)
    tables: list[dict[str, Any]] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, str]] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)
    _numbers: dict[Column, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = {record: place for place, record in enumerate(self.measurements)}

    def add(self, section: Section, name: str, place: str, *, headline: Iterable[str] | None = None) -> dict[str, Any]:
        """Add a section and return its table.

        Args:
            section: with the columns that can be shown, whichever are at first.
            name: anchor on the page.
            place: which part of the page shows it: `measured`, `training`, or `details` for its own fold alone.
            headline: keys of the columns that are shown unless the reader picks others; None: all, and none is picked.
        """
        shown = None if headline is None else set(headline)
        rows = section.rows
        table = {
            "id": name,
            "place": place,
            "stage": section.stage,
            "heading": marks.heading(section.stage, section.window),
            "conditions": [[key, value] for key, value in section.conditions.items()],
            "rowsAre": section.rows_are,
            "picks": headline is not None,
            "columns": [self._column(column) for column in section.columns],
            "heads": [place for place, one in enumerate(section.columns) if shown is None or one.key in shown],
            "names": [row.technique for row in rows],
            "baseline": [index for index, row in enumerate(rows) if row.baseline],
            "front": [index for index, row in enumerate(rows) if row.on_front],
            "said": _trimmed([marks.below_name(row) for row in rows]),
            "beaten": _trimmed([_few(row.beaten_by) for row in rows]),
            "outcome": _trimmed(["" if row.cells else marks.OUTCOMES.get(row.outcome, row.outcome) for row in rows]),
            "reason": _trimmed([row.reason for row in rows]),
            "axes": self._axes(rows),
            "records": _trimmed([self._records(row) for row in rows]),
            "sources": self._source(self._sources(section)),
            "cells": {column.key: self._cells(rows, column) for column in section.columns},
        }  # fmt: skip
        self.tables.append(table)
        return table

    def _column(self, column: Column) -> int:
        if column not in self._numbers:
            self._numbers[column] = len(self.columns)
            self.columns.append(_column(column))
        return self._numbers[column]

    def _records(self, row: Row) -> list[int]:
        return [self._places[id_] for id_ in row.measurements if id_ in self._places]

    def _axes(self, rows: Sequence[Row]) -> dict[str, str | list[str]]:
        """Return axis -> its value in each row, or in all."""
        found = [self.measurements.get(row.measurements[0]) if row.measurements else None for row in rows]
        axes = [dict(record.trial.axes) if record is not None else {} for record in found]
        keys = dict.fromkeys(key for of in axes for key in of)
        columns = {key: [of.get(key, "") for of in axes] for key in keys}
        return {key: values[0] if len(set(values)) == 1 else values for key, values in columns.items()}

    def _source(self, found: dict[str, str]) -> int:
        if found not in self.sources:
            self.sources.append(found)
        return self.sources.index(found)

    def _sources(self, section: Section) -> dict[str, str]:
        """Return series -> what read it, of the first record that has the section's window."""
        ids = (id_ for row in section.rows for id_ in row.measurements[:1])
        found = (self.measurements[id_] for id_ in ids if id_ in self.measurements)
        windows = (window for record in found for window in record.windows if window.label() == section.window)
        window = next((window for window in windows if window.series), None)
        return {series.name: series.source for series in window.series if series.source} if window else {}

    def _cells(self, rows: Sequence[Row], column: Column) -> dict[str, Any]:
        known = [index for index, row in enumerate(rows) if not _is_left_out(row.cells.get(column.key))]
        if len(known) == len(rows):
            parts = self._parts(rows, column)
            reasons = {reason for reason in parts.get("a", []) if reason is not None}
            return {"i": [], "rest": reasons.pop()} if parts.keys() == {"a"} and len(reasons) == 1 else parts
        parts = self._parts([rows[index] for index in known], column)
        return {"i": known, "rest": self.notes.number(LEFT_OUT), **parts}

    def _parts(self, rows: Sequence[Row], column: Column) -> dict[str, list[Any]]:
        cells = [row.cells.get(column.key) if row.cells else None for row in rows]
        parts: dict[str, list[Any]] = {
            "v": [_short(cell.value) if cell else None for cell in cells],
            "lo": [_short(cell.low, _END_DIGITS) if cell else None for cell in cells],
            "hi": [_short(cell.high, _END_DIGITS) if cell else None for cell in cells],
            "r": [_short(cell.ratio, _RATIO_DIGITS) if cell else None for cell in cells],
            "rl": [_short(cell.ratio_low, _RATIO_DIGITS) if cell else None for cell in cells],
            "rh": [_short(cell.ratio_high, _RATIO_DIGITS) if cell else None for cell in cells],
            "w": [_LETTERS.get(cell.verdict) if cell else None for cell in cells],
            "k": [_rank(cell) for cell in cells],
            "n": [_values(cell) for cell in cells],
            "t": [(cell.text or None) if cell else None for cell in cells],
            "a": [self._absent(cell, bool(row.cells)) for cell, row in zip(cells, rows, strict=True)],
            "y": [self.notes.number(cell.why_no_interval) if cell and cell.why_no_interval else None for cell in cells],
        }
        return {name: left for name, values in parts.items() if (left := _trimmed(values))}

    def _absent(self, cell: Cell | None, has_cells: bool) -> int | None:
        if not has_cells or (cell is not None and (cell.value is not None or cell.text)):
            return None
        return self.notes.number(cell.absent if cell is not None else "not in this section")


def _is_left_out(cell: Cell | None) -> bool:
    return cell is not None and cell.absent == LEFT_OUT


def _column(column: Column) -> dict[str, Any]:
    entry = entry_of(_METRIC.split(column.key)[0])
    said = {
        "key": column.key, "title": column.title, "unit": column.unit, "better": column.better,
        "symbol": column.symbol, "meaning": column.meaning, "group": group_of(column.key),
        "digits": marks.digits_of(column), "reads": entry.reads() if entry is not None else "",
    }  # fmt: skip
    return {key: value for key, value in said.items() if value != ""}


def _few(names: Sequence[str]) -> str:
    """Name some and count the rest.

    >>> _few("abcd"), _few("abcdefgh")
    ('a, b, c, d', 'a, b, c, d and 4 more')
    """
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _short(value: float | None, digits: int = _DIGITS) -> float | int | None:
    """Return a figure with as many digits as a reader can use; whole ones without a point.

    >>> _short(0.123456789), _short(2.0), _short(None)
    (0.123457, 2, None)
    """
    if value is None:
        return None
    near = float(f"{value:.{digits}g}")
    return int(near) if near.is_integer() and abs(near) < 1e15 else near


def _rank(cell: Cell | None) -> int | None:
    if cell is None or cell.rank is None:
        return None
    return -cell.rank if cell.tied else cell.rank


def _values(cell: Cell | None) -> list[float | int | None] | None:
    """Return a cell's values by repeat, null where a repeat has none."""
    if cell is None or not cell.values:
        return None
    return [_short(cell.values.get(repeat)) for repeat in range(max(cell.values) + 1)]


def _trimmed(values: list[Any]) -> list[Any]:
    """Leave out the empty end of a list.

    >>> _trimmed([1, None, None]), _trimmed(["", ""])
    ([1], [])
    """
    last = max((index for index, value in enumerate(values) if value not in (None, "", [])), default=-1)
    return values[: last + 1]
