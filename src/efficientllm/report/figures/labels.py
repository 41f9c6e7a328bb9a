"""Names beside points, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_SIZE = 6.5
#: Offsets in points, and how the text stands to its point.
_PLACES = ((5, 4, "left"), (-5, 4, "right"), (5, -9, "left"), (-5, -9, "right"), (0, 7, "center"), (0, -12, "center"))


@dataclass(frozen=True)
class Label:
    """A name at a point in the axes' data; `first` ones are placed before others."""

    text: str
    x: float
    y: float
    shade: float
    first: bool


def place(figure: Figure, axes: Axes, labels: Sequence[Label]) -> None:
    """Write each name at the first of its places that is free; one without a free place is left out."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    marks = axes.transData.transform([(label.x, label.y) for label in labels])
    point = figure.dpi / 72
    taken = [Bbox.from_bounds(x - 4 * point, y - 4 * point, 8 * point, 8 * point) for x, y in marks]
    inside = axes.get_window_extent()
    for label in sorted(labels, key=lambda label: not label.first):
        for dx, dy, side in _PLACES:
            text = axes.annotate(
                label.text, (label.x, label.y), (dx, dy), textcoords="offset points", ha=side, va="baseline",
                fontsize=_SIZE, alpha=label.shade, zorder=4, in_layout=False,
            )  # fmt: skip
            box = text.get_window_extent()
            if inside.x0 <= box.x0 and box.x1 <= inside.x1 + 8 * point and not any(box.overlaps(t) for t in taken):
                taken.append(box)
                break
            text.remove()
