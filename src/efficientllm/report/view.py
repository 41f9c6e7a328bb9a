"""What the page's template shows, ready to be written: texts, signs, and where the small bars lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.analysis.catalogue import judge_of
from efficientllm.analysis.table import Cell, Column, Row, Section, StudyTable
from efficientllm.records.card import Card
from efficientllm.report import marks
from efficientllm.report.marks import Footnotes

#: How a verdict that neither bears out nor contradicts a claim is said.
_OPEN = {"equivalent": "no difference", "unresolved": "cannot tell"}
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


@dataclass(frozen=True)
class ClaimView:
    """One claim of a card beside what was measured, by section."""

    technique: str
    title: str
    source: str
    claim: str
    measured: tuple[tuple[str, str, str], ...]


def section_views(sections: Sequence[Section], notes: Footnotes, prefix: str = "s") -> list[SectionView]:
    """Return the sections as the template shows them."""
    return [_section(section, f"{prefix}{index}", notes) for index, section in enumerate(sections, 1)]


def claim_views(table: StudyTable) -> list[ClaimView]:
    """Return every claim of the techniques' cards with the verdicts on its metric, section by section.

    Args:
        table: with all metrics as columns: not every claim is judged by a headline.
    """
    views = []
    for key, card in table.cards.items():
        technique = key.partition(" (")[0] if key not in _techniques(table) else key
        claims = [(word, "better") for word in card.improves] + [(word, "worse") for word in card.costs]
        for word, expected in claims:
            measured = tuple(_measured(section, technique, word, expected) for section in table.sections)
            views.append(_claim(key, card, word, expected, measured))
    return views


def _claim(
    technique: str, card: Card, word: str, expected: str, measured: tuple[tuple[str, str, str], ...]
) -> ClaimView:
    verb = "improves" if expected == "better" else "costs"
    return ClaimView(
        technique=technique, title=card.title, source=card.source, claim=f"{verb} {word}", measured=measured
    )


def _techniques(table: StudyTable) -> set[str]:
    return {row.technique for section in table.sections for row in section.rows}


def _measured(section: Section, technique: str, word: str, expected: str) -> tuple[str, str, str]:
    """Return how a claim stands in a section (`holds`, `contrary`, `open`, `none`), the words for it, and the ratio."""
    row = next((row for row in section.rows if row.technique == technique), None)
    cell = row.cells.get(judge_of(word, section.window.partition(" ")[0])) if row else None
    if row is not None and row.baseline:
        return "none", "baseline", ""
    if cell is None or cell.value is None:
        return "none", "not measured", ""
    if not cell.verdict:
        return "none", "not compared", ""
    state = "holds" if cell.verdict == expected else "contrary" if cell.verdict in ("better", "worse") else "open"
    words = {"holds": "as claimed", "contrary": "contrary to it"}.get(state) or _OPEN[cell.verdict]
    return state, f"{marks.SIGNS[cell.verdict]} {words}", marks.ratio_text(cell)


def _section(section: Section, anchor: str, notes: Footnotes) -> SectionView:
    reach = _reach(section)
    return SectionView(
        anchor=anchor,
        heading=marks.heading(section.stage, section.window),
        conditions=tuple(section.conditions.items()),
        columns=section.columns,
        rows=tuple(_row(row, section.columns, notes, reach) for row in section.rows),
    )


def _row(row: Row, columns: Sequence[Column], notes: Footnotes, reach: float) -> RowView:
    cells = [_cell(column, row.cells.get(column.key, Cell(absent="not in this section")), row, notes, reach)
             for column in columns] if row.cells else []  # fmt: skip
    return RowView(
        name=row.technique,
        baseline=row.baseline,
        stated=marks.stated_text(row).replace(marks.ON_FRONT, "").strip(),
        reason=row.reason,
        on_front=bool(row.on_front),
        beaten_by=", ".join(row.beaten_by),
        outcome="" if row.cells else marks.OUTCOMES.get(row.outcome, row.outcome),
        cells=tuple(cells),
    )


def _cell(column: Column, cell: Cell, row: Row, notes: Footnotes, reach: float) -> CellView:
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
