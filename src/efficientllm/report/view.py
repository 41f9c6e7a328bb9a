"""The tables for a reader without JavaScript, ready to be written; with it, the page draws all from its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.analysis.table import Cell, Column, Row, Section
from efficientllm.report import marks
from efficientllm.report.fitting import cut
from efficientllm.report.marks import Footnotes

#: A plain table has so many rows at most.
_MOST_ROWS = 24


@dataclass(frozen=True)
class CellView:
    """One cell: what is written in it, and the number of the note that says why it is empty."""

    figure: str
    verdict: str = ""
    evidence: str = ""
    note: int = 0


@dataclass(frozen=True)
class RowView:
    """One row; without cells it says how it ended."""

    name: str
    baseline: bool
    on_front: bool
    stated: str
    reason: str
    outcome: str
    cells: tuple[CellView, ...]


@dataclass(frozen=True)
class SectionView:
    """One section's heading and its plain table; `anchor` names the table of the page's data."""

    anchor: str
    heading: str
    conditions: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: tuple[RowView, ...]
    num_rows: int
    rows_are: str
    minor: bool


def section_view(section: Section, anchor: str, notes: Footnotes, *, plain: bool) -> SectionView:
    """Return a section as the template shows it; `plain` tells whether it has a plain table."""
    return SectionView(
        anchor=anchor,
        heading=marks.heading(section.stage, section.window),
        conditions=tuple((key, value) for key, value in section.conditions.items() if key != "machine"),
        columns=section.columns,
        rows=tuple(_row(row, section.columns, notes) for row in cut(section, _MOST_ROWS).rows) if plain else (),
        num_rows=len(section.rows),
        rows_are=section.rows_are,
        minor=section.minor,
    )


def _row(row: Row, columns: Sequence[Column], notes: Footnotes) -> RowView:
    absent = Cell(absent="not in this section")
    cells = [_cell(column, row.cells.get(column.key, absent), notes) for column in columns] if row.cells else []
    return RowView(
        name=row.technique,
        baseline=row.baseline,
        on_front=bool(row.on_front),
        stated=marks.below_name(row),
        reason=row.reason,
        outcome="" if row.cells else marks.OUTCOMES.get(row.outcome, row.outcome),
        cells=tuple(cells),
    )


def _cell(column: Column, cell: Cell, notes: Footnotes) -> CellView:
    if cell.text:
        return CellView(figure=cell.text)
    if cell.value is None:
        return CellView(figure="–", note=notes.number(cell.absent))
    figure = f"{marks.figure_text(column, cell.value)} {marks.SIGNS.get(cell.verdict, '')}".strip()
    evidence = f"{marks.evidence_text(cell)} {marks.rank_text(cell)}".strip()
    return CellView(figure=figure, verdict=cell.verdict, evidence=evidence)
