"""What the page's template shows, ready to be written: texts, signs, and where the small bars lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.analysis.table import Cell, Column, Row, Section
from efficientllm.report import marks
from efficientllm.report.marks import Footnotes

#: A hint lists the values of so many repeats at most.
_MOST_VALUES = 10
#: The small bars reach from a quarter to four times the baseline at most, and never less than 10 % to either side.
_BAR_MOST, _BAR_LEAST = math.log(4), math.log(1.1)


@dataclass(frozen=True)
class CellView:
    """One cell: what is written, what it sorts by, and its bar against the baseline (percent of the width)."""

    label: str
    figure: str
    sign: str = ""
    verdict: str = ""
    evidence: str = ""
    rank: str = ""
    first: bool = False
    hint: str = ""
    note: int = 0
    sort: str = ""
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class RowView:
    """One row; without cells it says how it ended."""

    name: str
    baseline: bool
    stated: str
    reason: str
    on_front: bool
    beaten_by: str
    outcome: str
    cells: tuple[CellView, ...]


@dataclass(frozen=True)
class SectionView:
    """One section's table."""

    anchor: str
    heading: str
    conditions: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: tuple[RowView, ...]
    rows_are: str
    minor: bool


def section_views(sections: Sequence[Section], notes: Footnotes, prefix: str = "s") -> list[SectionView]:
    """Return the sections as the template shows them."""
    return [_section(section, f"{prefix}{index}", notes) for index, section in enumerate(sections, 1)]


def _section(section: Section, anchor: str, notes: Footnotes) -> SectionView:
    reach = _reach(section)
    return SectionView(
        anchor=anchor,
        heading=marks.heading(section.stage, section.window),
        conditions=tuple(section.conditions.items()),
        columns=section.columns,
        rows=tuple(_row(row, section.columns, notes, reach) for row in section.rows),
        rows_are=section.rows_are,
        minor=section.minor,
    )


def _row(row: Row, columns: Sequence[Column], notes: Footnotes, reach: float) -> RowView:
    cells = [_cell(column, row.cells.get(column.key, Cell(absent="not in this section")), row, notes, reach)
             for column in columns] if row.cells else []  # fmt: skip
    return RowView(
        name=row.technique,
        baseline=row.baseline,
        stated=marks.stated_text(row).replace(marks.ON_FRONT, "").strip() + " of limit" * ("attained" in row.stated),
        reason=row.reason,
        on_front=bool(row.on_front),
        beaten_by=", ".join(row.beaten_by),
        outcome="" if row.cells else marks.OUTCOMES.get(row.outcome, row.outcome),
        cells=tuple(cells),
    )


def _cell(column: Column, cell: Cell, row: Row, notes: Footnotes, reach: float) -> CellView:
    if cell.text:
        sort = "" if cell.value is None else repr(cell.value)
        return CellView(label=column.title, figure=cell.text, verdict="words", hint=column.meaning, sort=sort)
    if cell.value is None:
        return CellView(label=column.title, figure="–", note=notes.number(cell.absent), hint=cell.absent)
    return CellView(
        label=column.title,
        figure=marks.figure_text(column, cell.value),
        sign=marks.SIGNS.get(cell.verdict, ""),
        verdict=cell.verdict,
        evidence=marks.evidence_text(cell),
        rank=marks.rank_text(cell),
        first=cell.rank == 1,
        hint=_hint(column, cell),
        sort=repr(cell.value),
        bar=None if row.baseline else _bar(cell, reach),
    )


def _hint(column: Column, cell: Cell) -> str:
    """Return the sentence that a pointer on the cell shows."""
    said = [column.meaning]
    if cell.low is not None and cell.high is not None:
        ends = f"{marks.figure_text(column, cell.low)} to {marks.figure_text(column, cell.high)}"
        said.append(f"95 % interval {ends}")
    elif cell.why_no_interval:
        said.append(cell.why_no_interval)
    if cell.verdict:
        said.append(f"{cell.verdict} against the baseline: {marks.ratio_text(cell)}")
    values = list(cell.values.values())
    if len(values) <= _MOST_VALUES:
        said.append("by repeat: " + ", ".join(marks.figure_text(column, value) for value in values))
    return "; ".join(text for text in said if text)


def _reach(section: Section) -> float:
    """Return the logarithm of the ratio at which a section's bars end."""
    cells = [cell for row in section.rows for cell in row.cells.values()]
    ratios = [ratio for cell in cells for ratio in (cell.ratio, cell.ratio_low, cell.ratio_high) if ratio and ratio > 0]
    return min(_BAR_MOST, max([_BAR_LEAST, *(abs(math.log(ratio)) for ratio in ratios)]))


def _bar(cell: Cell, reach: float) -> tuple[float, float, float] | None:
    """Return where ratio and interval lie in percent of the bar's width; 50 is the baseline."""
    if cell.ratio is None or cell.ratio <= 0:
        return None
    low, high = cell.ratio_low or cell.ratio, cell.ratio_high or cell.ratio
    return tuple(round(50 + 50 * max(-1.0, min(1.0, math.log(r) / reach)), 1) for r in (low, cell.ratio, high))  # type: ignore[return-value]
