"""Trade-offs on paper: two metrics of a window with their intervals, and the front of the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from efficientllm.analysis.section import PARETO
from efficientllm.analysis.table import Cell, Row, Section
from efficientllm.report import marks
from efficientllm.report.figures.labels import Label, place
from efficientllm.report.figures.look import QUIET, Ink, Scale, arrow, new_figure, scale_of
from efficientllm.report.plane import Standing, standings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FADED = 0.35


def figures(section: Section, ink: Mapping[str, Ink]) -> Iterator[tuple[tuple[str, str], Figure]]:
    """Return a figure for each two of latency, quality and memory that two techniques have."""
    for pair in combinations(("latency_median", "bits_per_byte", "memory_mean"), 2):
        assert set(pair) <= set(PARETO)
        rows = [row for row in section.rows if all(_cell(row, key).value is not None for key in pair)]
        if len(rows) > 1:
            yield pair, _figure(section, rows, pair, ink)


def _cell(row: Row, key: str) -> Cell:
    return row.cells.get(key, Cell())


def _figure(section: Section, rows: list[Row], pair: tuple[str, str], ink: Mapping[str, Ink]) -> Figure:
    x, y = (next(column for column in section.columns if column.key == key) for key in pair)
    figure, axes = new_figure()
    scales = [scale_of([_cell(row, c.key).value or 0.0 for row in rows], c.unit) for c in (x, y)]
    points = [(row.technique, _cell(row, pair[0]), _cell(row, pair[1])) for row in rows]
    found = standings(points, (x.better, y.better))
    labels: list[Label] = []
    for row, (name, across, up) in zip(rows, points, strict=True):
        standing = found.get(name, Standing(front=False, beaten_by=()))
        shade = _FADED if standing.beaten_by else 1.0
        px, py = (across.value or 0.0) / scales[0].divisor, (up.value or 0.0) / scales[1].divisor
        axes.errorbar(
            px, py, xerr=_error(across, scales[0]), yerr=_error(up, scales[1]), color=ink[name].colour, alpha=shade,
            marker="s" if row.baseline else "o", markersize=4.5, markeredgewidth=1.1, elinewidth=0.8,
            markerfacecolor=ink[name].colour if standing.front else "white", zorder=3,
        )  # fmt: skip
        labels.append(Label(name, px, py, shade, first=row.baseline or standing.front))
    axes.set_xlabel(scales[0].label(x.title) + arrow(x, across=True))
    axes.set_ylabel(scales[1].label(y.title) + arrow(y, across=False))
    axes.set_title(marks.heading(section.stage, section.window), fontsize=7, color=QUIET, loc="left")
    axes.margins(0.14)
    on_front = [(p.x, p.y) for p in labels if found.get(p.text, Standing(front=False, beaten_by=())).front]
    _step(axes, on_front, (x.better, y.better))
    place(figure, axes, labels)
    return figure


def _error(cell: Cell, scale: Scale) -> list[list[float]] | None:
    if cell.low is None or cell.high is None or cell.value is None:
        return None
    return [[max(0.0, cell.value - cell.low) / scale.divisor], [max(0.0, cell.high - cell.value) / scale.divisor]]


def _step(axes: Axes, front: list[tuple[float, float]], better: tuple[str, str]) -> None:
    """Draw what the front leaves to be beaten: from each point to the next worse in x, at its own y."""
    if not front or not all(better):
        return
    order = sorted(front, reverse=better[0] == "high")
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    worst_x, worst_y = (right if better[0] == "low" else left), (top if better[1] == "low" else bottom)
    xs, ys = [order[0][0]], [worst_y]
    for (x, y), following in zip(order, [*order[1:], (worst_x, 0.0)], strict=True):
        xs += [x, following[0]]
        ys += [y, y]
    axes.plot(xs, ys, color=QUIET, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
