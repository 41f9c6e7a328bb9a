"""A study's table on the terminal: one block a section, the same columns below each other.

    pretrain                                       stated beside the name
      memory   MFU   step   throughput   …           │
    mha (baseline)      859 MiB     53.7 %     528 ms     ← figure and verdict
    ◆ 4.47 M · 54 %     ±0.1 % #4   ±2.0 % =2  ±2.1 % =2  ← how sure, and the rank

Where the console is too narrow the columns come in several blocks; no figure is ever cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from efficientllm.analysis.table import Cell, Column, Row, Section, StudyTable
from efficientllm.report import marks
from efficientllm.report.blocks import Line, chunks, heading_line, joined
from efficientllm.report.marks import Footnotes
from efficientllm.report.printer import Printer

_STYLES = {"better": "green", "worse": "red", "equivalent": "cyan", "unresolved": "yellow"}
_MOST_LEFT_OUT = 5


def print_table(table: StudyTable, console: Console) -> None:
    """Print a study: the verdict, the table, the legend, and what a reader must know of it.

    Args:
        table: from `analysis.leaderboard.study_table`.
        console: its width decides how many columns stand beside each other.
    """
    page = Printer(console)
    page.line(Text(table.study, style="bold").append(f"  {table.title}" if table.title else "", style="not bold"))
    for sentence in table.verdict:
        page.item(sentence)
    notes = Footnotes()
    # apart: long headings of the one would widen the other
    points = [(section,) for section in table.grids if not section.minor]
    for sections in (table.shown(), *points, table.crossovers, table.budgets, table.quality, table.rank_changes):
        for lines in _blocks(sections, notes, console):
            page.line(lines)
    page.line(Text())
    for reason in notes.reasons:
        page.item(reason, bullet=notes.mark(reason))
    _print_notes(table, page)


def _print_notes(table: StudyTable, page: Printer) -> None:
    if any(row.cells for section in table.sections for row in section.rows):
        for text in marks.LEGEND:
            page.item(text, style="dim", bullet="")
    for text in marks.sanity_texts(table.sanity):
        page.item(text, style="dim", bullet="")
    for choice in table.choices:
        page.item(choice, style="dim", bullet="")
    for environment in table.environments:
        page.item(environment, style="dim", bullet="")
    for caution in table.cautions:
        page.item(f"{caution.code}: {caution.text}", bullet="!")
    for text in table.left_out[:_MOST_LEFT_OUT]:
        page.item(f"left out: {text}", style="dim", bullet="")
    if len(table.left_out) > _MOST_LEFT_OUT:
        page.item(f"left out: {len(table.left_out) - _MOST_LEFT_OUT} more, on the page", style="dim", bullet="")


def _blocks(sections: Sequence[Section], notes: Footnotes, console: Console) -> Iterator[Text]:
    """Give the table's lines: every section with as many columns beside each other as the width allows."""
    grids = [_grid(section, notes) for section in sections]
    if not grids:
        return
    names = [_name(row) for section in sections for row in section.rows if row.cells]
    name_width = max([line.width() for line in names], default=0)
    num_columns = max(len(section.columns) for section in sections)
    widths = [
        max([_width_of(section, grid, index) for section, grid in zip(sections, grids, strict=True)], default=0)
        for index in range(num_columns)
    ]
    for section, grid in zip(sections, grids, strict=True):
        yield Text()
        yield heading_line(section.stage, section.window, section.conditions)
        for chunk in chunks(widths[: len(section.columns)], console.width - name_width):
            yield from _block(section, grid, chunk, widths, name_width)
        yield from _failures(section, console)


def _grid(section: Section, notes: Footnotes) -> list[list[Line]]:
    """Return the lines of each cell, row by row; rows without figures have none."""
    return [
        [_cell(column, row.cells.get(column.key, Cell(absent="not in this section")), notes) for column in
         section.columns]
        for row in section.rows
        if row.cells
    ]  # fmt: skip


def _cell(column: Column, cell: Cell, notes: Footnotes) -> Line:
    if cell.text:
        return Line(Text(cell.text), Text())
    if cell.value is None:
        return Line(Text(f"–{notes.mark(cell.absent)}"), Text())
    sign, style = marks.SIGNS.get(cell.verdict, " "), _STYLES.get(cell.verdict, "")
    figure = Text(marks.figure_text(column, cell.value)).append(f" {sign}", style=style)
    evidence = f"{marks.evidence_text(cell)} {marks.rank_text(cell):>2}".rstrip()
    return Line(figure, Text(f"{evidence}  " if not cell.rank else evidence, style="dim"))


def _name(row: Row) -> Line:
    name = Text(row.technique, style="bold")
    if row.baseline:
        name.append(" (baseline)", style="not bold")
    return Line(name, Text(marks.stated_text(row), style="dim"))


def _width_of(section: Section, grid: Sequence[Sequence[Line]], index: int) -> int:
    if index >= len(section.columns):
        return 0
    return max([cell_len(section.columns[index].title), *(cells[index].width() for cells in grid)])


def _block(
    section: Section, grid: Sequence[Sequence[Line]], chunk: Sequence[int], widths: Sequence[int], name_width: int
) -> Iterator[Text]:
    titles = [Text(section.columns[index].title, style="dim italic") for index in chunk]
    yield joined(Text(), titles, chunk, widths, name_width)
    rows = [row for row in section.rows if row.cells]
    for row, cells in zip(rows, grid, strict=True):
        name, lines = _name(row), [cells[index] for index in chunk]
        yield joined(name.first, [line.first for line in lines], chunk, widths, name_width)
        yield joined(name.second, [line.second for line in lines], chunk, widths, name_width)


def _failures(section: Section, console: Console) -> Iterator[Text]:
    for row in section.rows:
        if not row.cells:
            text = Text(row.technique, style="bold")
            text.append(" (baseline)" if row.baseline else "", style="not bold")
            text.append(f"  {marks.outcome_text(row)}", style="not bold magenta")
            yield from text.wrap(console, max(console.width, 20))
