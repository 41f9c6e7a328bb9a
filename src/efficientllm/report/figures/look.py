"""How figures look: one column of a paper wide, the page's colours, plain axes with their units."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efficientllm.analysis.table import Column
from efficientllm.units import quantity_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches: a column of a two-column paper.
WIDTH, HEIGHT = 3.35, 2.35
TEXT, QUIET, LINE = "#1c1b19", "#6a6862", "#e4e1da"
MARKERS = ("o", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_SETTINGS = {
    "font.family": "DejaVu Sans", "font.size": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": QUIET,
    "axes.linewidth": 0.6, "axes.labelcolor": TEXT, "text.color": TEXT, "xtick.color": QUIET, "ytick.color": QUIET,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE,
    "grid.linewidth": 0.5, "lines.linewidth": 1.1, "legend.frameon": False, "savefig.dpi": 300,
    "svg.hashsalt": "efficientllm", "svg.fonttype": "path", "pdf.fonttype": 42, "figure.facecolor": "white",
}  # fmt: skip
#: What a unit may be scaled by.
_BINARY = tuple(1024.0**k for k in range(5))
_DECIMAL = (*(10.0**k for k in range(-9, 18, 3)), 0.01, 60.0, 3600.0)


def applied() -> contextlib.AbstractContextManager[None]:
    """Return the context in which figures are drawn and saved; settings of the user's own do not count."""
    import matplotlib

    settings = {**matplotlib.rcParamsDefault, "backend": "agg", **_SETTINGS}
    context: contextlib.AbstractContextManager[None] = matplotlib.rc_context(settings)
    return context


@functools.cache
def colours() -> tuple[str, ...]:
    """Return the page's colours on white, from its stylesheet."""
    css = (Path(__file__).parent.parent / "page.css").read_text(encoding="utf-8")
    return tuple(re.findall(r"--c\d: light-dark\((#[0-9a-f]{6})", css))


@dataclass(frozen=True)
class Ink:
    """How one technique is drawn: colour, marker and dashes tell it from any other."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]


def inks(names: Sequence[str]) -> dict[str, Ink]:
    """Return an ink for each name, by its place: all figures of a study are drawn with the same."""
    many = len(colours())
    return {
        name: Ink(colours()[i % many], MARKERS[(i + i // many) % len(MARKERS)], DASHES[(i // many) % len(DASHES)])
        for i, name in enumerate(names)
    }


def new_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return a figure of a column's width and its one plot."""
    figure, panels = new_panels([height])
    return figure, panels[0]


def new_panels(heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure of a column's width with a plot of each height below the one before."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    return figure, list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])


@dataclass(frozen=True)
class Scale:
    """What an axis divides by, and the unit that it then bears."""

    divisor: float
    unit: str

    def label(self, title: str) -> str:
        """Return an axis label; what the title says already (a token) is not said again.

        >>> Scale(0.001, "mJ/token").label("Energy/token"), Scale(1.0, "bits/byte").label("Bits/byte")
        ('Energy/token (mJ)', 'Bits/byte')
        """
        _, slash, per = title.partition("/")
        unit = "" if title.lower() == self.unit else self.unit.removesuffix(f"{slash}{per}") if slash else self.unit
        return f"{title} ({unit})" if unit else title


def scale_of(values: Sequence[float], unit: str) -> Scale:
    """Choose the scale in which the greatest of the values reads well.

    >>> scale_of([0.0021, 0.0123], "s"), scale_of([3 * 2**30], "bytes"), scale_of([0.5], "ratio")
    (Scale(divisor=0.001, unit='ms'), Scale(divisor=1073741824.0, unit='GiB'), Scale(divisor=0.01, unit='%'))
    >>> scale_of([2.3], "bits/byte"), scale_of([98_700], "tokens/s")
    (Scale(divisor=1.0, unit='bits/byte'), Scale(divisor=1000.0, unit='k tokens/s'))
    """
    most = max((abs(value) for value in values), default=0.0)
    if not most or unit in ("bits/byte", "nats/token", "perplexity", "score", "error", "factor", "setting"):
        return Scale(1.0, unit if "/" in unit else "")
    found = re.match(r"([-\d.]+)\s*(.*)", quantity_text(most, unit, 6))
    if found is None:
        return Scale(1.0, unit)
    asked = most / float(found[1])
    steps = _BINARY if unit.startswith("bytes") else _DECIMAL
    head, _, _ = unit.partition("/")
    said = found[2].replace("/", f" {head}/", 1).strip() if head in ("tokens", "samples") else found[2]
    return Scale(min(steps, key=lambda step: abs(math.log(step / asked))), said)


def arrow(column: Column, *, across: bool) -> str:
    """Return a sign that points to a metric's better side, with the space before it."""
    signs = {"low": "←", "high": "→"} if across else {"low": "↓", "high": "↑"}
    return f"  {signs[column.better]} better" if column.better else ""
