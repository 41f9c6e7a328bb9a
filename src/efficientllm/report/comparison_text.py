"""A comparison on the terminal, and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from efficientllm.analysis.comparison import ComparisonTable
from efficientllm.report import comparison_lines as lines
from efficientllm.report.comparison_lines import Block
from efficientllm.report.markdown import escape
from efficientllm.report.printer import Printer

_GAP = "  "
#: Columns of words; the others are figures and stand right.
_WORDS = (0, 1, -1)
_STYLES = {"▲": "green", "▼": "red", "≈": "cyan", "?": "yellow", "FLIPS": "bold red"}
_MOST_ABSENT = 4


def print_comparison(table: ComparisonTable, console: Console, *, everything: bool = False) -> None:
    """Print a comparison: who, the verdict, what is significant, and what was not compared.

    Args:
        table: from `analysis.comparison_table.compare_sides`.
        console: where to.
        everything: whether figures that cannot be told apart are listed too.
    """
    page = Printer(console)
    for letter, side in (("A", table.a), ("B", table.b)):
        page.item(f"{side.name}: {lines.side_text(side)}", bullet=letter)
    page.item(lines.how_text(table), style="dim", bullet=" ")
    if differs := lines.environment_text(table):
        page.item(f"The environments differ: {differs}", style="dim", bullet=" ")
    page.line(Text())
    for sentence in table.verdict:
        page.item(sentence)
    differences = lines.difference_blocks(table, everything)
    conclusions = lines.conclusion_blocks(table, everything)
    _print_blocks(page, differences)
    if conclusions:
        page.line(Text())
        page.line(Text("What carries over from A to B", style="bold"))
        _print_blocks(page, conclusions)
    page.line(Text())
    notes = _notes(table, everything)
    page.item(lines.LEGEND, style="dim", bullet="")
    if conclusions:
        page.item(f"conclusions: {lines.CONCLUSIONS}", style="dim", bullet="")
    for text in notes:
        page.item(text, style="dim", bullet="")


def _notes(table: ComparisonTable, everything: bool) -> list[str]:
    absent = lines.absent_lines(table)
    more = len(absent) - _MOST_ABSENT
    if more > 0 and not everything:
        absent = [*absent[:_MOST_ABSENT], f"not compared: {more} more reasons (--all)"]
    hidden = lines.hidden_text(table, everything)
    return [
        *lines.ended_lines(table),
        *lines.unmatched_lines(table),
        *absent,
        *table.notes,
        *([hidden] if hidden else []),
    ]


def _print_blocks(page: Printer, blocks: list[Block]) -> None:
    widths = [
        max(map(cell_len, column)) for column in zip(*(row for block in blocks for row in block.rows), strict=True)
    ]
    for block in blocks:
        page.line(Text())
        page.line(Text(block.heading, style="bold underline"))
        for number, row in enumerate(block.rows):
            page.line(_line(row, widths, heading=number == 0))


def _line(row: tuple[str, ...], widths: list[int], *, heading: bool) -> Text:
    line = Text(style="dim italic" if heading else "")
    left = [index % len(row) for index in _WORDS]
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - cell_len(cell))
        line.append("" if index == 0 else _GAP)
        line.append(space if index not in left else "")
        line.append(cell, style="bold" if index == 0 else _STYLES.get(cell[-1:], _STYLES.get(cell, "")))
        line.append(space if index in left else "")
    line.rstrip()
    return line


def comparison_markdown(table: ComparisonTable, *, everything: bool = False) -> str:
    """Write a comparison as GitHub Markdown: the verdict, what is significant, the rest folded."""
    parts = [f"## {escape(table.a.name)} → {escape(table.b.name)}", ""]
    parts += [f"- {escape(sentence)}" for sentence in table.verdict]
    for block in lines.difference_blocks(table, everything):
        parts += ["", *_markdown_block(block)]
    conclusions = lines.conclusion_blocks(table, everything)
    if conclusions:
        parts += ["", "### What carries over from A to B"]
        for block in conclusions:
            parts += ["", *_markdown_block(block)]
    folded = [f"{letter}: {side.name}: {lines.side_text(side)}" for letter, side in (("A", table.a), ("B", table.b))]
    folded += [lines.how_text(table)]
    folded += [f"The environments differ: {text}" for text in [lines.environment_text(table)] if text]
    folded += [lines.LEGEND, *_notes(table, everything)]
    parts += ["", "<details><summary>What was compared, and how</summary>", ""]
    parts += [f"- {escape(text)}" for text in folded]
    return "\n".join([*parts, "", "</details>"]) + "\n"


def _markdown_block(block: Block) -> Iterator[str]:
    yield f"#### {escape(block.heading)}"
    yield ""
    head, *rows = block.rows
    left = [index % len(head) for index in _WORDS]
    yield f"| {' | '.join(escape(cell) for cell in head)} |"
    yield "|" + "|".join(":--" if index in left else "--:" for index in range(len(head))) + "|"
    for row in rows:
        yield f"| {' | '.join(escape(cell) for cell in row)} |"
