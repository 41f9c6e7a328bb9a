"""Bars with intervals: the metrics that head a window's table, technique by technique."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from efficientllm.analysis.catalogue import group_of
from efficientllm.analysis.table import Column, Row, Section
from efficientllm.report import marks
from efficientllm.report.figures.look import QUIET, Ink, arrow, new_panels, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches of a row, and of what surrounds the rows of a panel.
_ROW, _AROUND = 0.135, 0.5


def figure(keys: Sequence[str], section: Section, ink: Mapping[str, Ink]) -> Figure | None:
    """Return a window's bars, a panel for each metric that two techniques have; None where there is none."""
    rows = [row for row in section.rows if row.cells]
    columns = [column for column in section.columns if column.key in keys and len(_with(rows, column)) > 1]
    if not columns:
        return None
    made, panels = new_panels([_AROUND + _ROW * len(_with(rows, column)) for column in columns])
    for axes, column in zip(panels, columns, strict=True):
        _panel(axes, column, _with(rows, column), ink)
    made.suptitle(marks.heading(section.stage, section.window), fontsize=7, color=QUIET, x=0.01, ha="left")
    return made


def _with(rows: Sequence[Row], column: Column) -> list[Row]:
    return [row for row in rows if column.key in row.cells and row.cells[column.key].value is not None]


def _panel(axes: Axes, column: Column, rows: Sequence[Row], ink: Mapping[str, Ink]) -> None:
    cells = [row.cells[column.key] for row in rows]
    scale = scale_of([cell.value or 0.0 for cell in cells], column.unit)
    quality = group_of(column.key) == "quality"
    for place, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        value = (cell.value or 0.0) / scale.divisor
        low, high = (value if end is None else end / scale.divisor for end in (cell.low, cell.high))
        error = [[max(0.0, value - low)], [max(0.0, high - value)]]
        colour = ink[row.technique].colour
        if quality:  # a bar from zero would hide what differs
            axes.errorbar(value, place, xerr=error, color=colour, marker="o", markersize=3.5, elinewidth=0.9)
        else:
            axes.barh(place, value, xerr=error, color=colour, height=0.66, alpha=0.85, ecolor="#1c1b19",
                      error_kw={"elinewidth": 0.8})  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{row.technique}{' (baseline)' if row.baseline else ''}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(scale.label(column.title) + arrow(column, across=True), labelpad=1)
