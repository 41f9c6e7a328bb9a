"""Columns that stand beside each other as far as a terminal's width allows, in blocks where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from efficientllm.report import marks

GAP = "  "


@dataclass(frozen=True)
class Line:
    """The two lines of one cell."""

    first: Text
    second: Text

    def width(self) -> int:
        """Return the cells that the wider line takes."""
        return max(cell_len(self.first.plain), cell_len(self.second.plain))


def table_lines(
    names: Sequence[Line], titles: Sequence[str], grid: Sequence[Sequence[Line]], width: int
) -> Iterator[Text]:
    """Give the lines of a table whose rows take two lines each.

    Args:
        names: what stands before each row.
        titles: a heading a column.
        grid: row by row, a cell a column.
        width: of the console.
    """
    name_width = max((name.width() for name in names), default=0)
    columns = list(zip(*grid, strict=True)) if grid else [()] * len(titles)
    widths = [
        max([cell_len(title), *(cell.width() for cell in cells)]) for title, cells in zip(titles, columns, strict=True)
    ]
    for chunk in chunks(widths, width - name_width):
        yield joined(Text(), [Text(titles[i], style="dim italic") for i in chunk], chunk, widths, name_width)
        for name, cells in zip(names, grid, strict=True):
            yield joined(name.first, [cells[i].first for i in chunk], chunk, widths, name_width)
            yield joined(name.second, [cells[i].second for i in chunk], chunk, widths, name_width)


def chunks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Give runs of column numbers that fit into the room, as even as can be, each at least one column."""
    for at_most in range(len(widths), 0, -1):
        number = -(-len(widths) // at_most)
        size = -(-len(widths) // number)
        runs = [list(range(i, min(i + size, len(widths)))) for i in range(0, len(widths), size)]
        if at_most == 1 or all(sum(widths[i] + len(GAP) for i in run) <= room for run in runs):
            yield from runs
            return


def heading_line(stage: str, window: str, conditions: Mapping[str, str]) -> Text:
    """Return a section's heading with what its rows share."""
    text = Text(marks.heading(stage, window), style="bold underline")
    shown = ("model", "dtype", "tokens", "device", "protocol")
    said = [conditions[key] for key in shown if key in conditions]
    return text.append(f"  {', '.join(said)}", style="not bold not underline dim")


def joined(name: Text, parts: Sequence[Text], chunk: Sequence[int], widths: Sequence[int], name_width: int) -> Text:
    """Return one line of a block: the name, then the parts under their columns, right-aligned."""
    line = Text().append_text(name).append(" " * (name_width - cell_len(name.plain)))
    for index, part in zip(chunk, parts, strict=True):
        line.append(GAP + " " * (widths[index] - cell_len(part.plain)))
        line.append_text(part)
    line.rstrip()
    return line
