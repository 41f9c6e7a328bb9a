"""The roofline on paper: each technique's step under the calibrated roofs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from efficientllm.analysis.table import Section
from efficientllm.records.measurement import Measurement
from efficientllm.report.figures.look import HEIGHT, QUIET, TEXT, Ink, new_figure
from efficientllm.report.roofline import RoofChart, roof_charts
from efficientllm.units import quantity_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figures(
    sections: Sequence[Section], measurements: Sequence[Measurement], ink: Mapping[str, Ink]
) -> Iterator[tuple[str, Figure]]:
    """Return the heading of each window that has points, and its figure."""
    for chart in roof_charts(sections, measurements):
        if chart.points:
            yield chart.heading, _figure(chart, ink)


def _figure(chart: RoofChart, ink: Mapping[str, Ink]) -> Figure:
    figure, axes = new_figure(HEIGHT + 0.12 * math.ceil(len(chart.points) / 3))
    used = {point.dtype for point in chart.points}
    peak = max(rate for dtype, rate in chart.flop_per_s.items() if dtype in used)
    at = [point.intensity for point in chart.points] + ([peak / chart.bytes_per_s] if chart.bytes_per_s else [])
    ends = (min(at) / 4, max(at) * 4)
    for dtype in sorted(used):
        _roof(axes, chart, dtype, ends)
    for point in chart.points:
        axes.errorbar(
            point.intensity, point.rate, yerr=[[point.rate - point.low], [point.high - point.rate]],
            color=ink[point.name].colour, marker=ink[point.name].marker, markersize=4.5, markerfacecolor="white",
            markeredgewidth=1.1, elinewidth=0.8,
            linestyle="none", label=f"{point.name}, {100 * point.attained:.0f} %", zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(min(point.low for point in chart.points) / 3, peak * 2.2)
    axes.set_xlabel("intensity (FLOP/byte)")
    axes.set_ylabel("reached (FLOP/s)")
    axes.set_title(chart.heading, fontsize=7, color=QUIET, loc="left")
    figure.legend(loc="outside lower center", ncols=3, title="technique, share of its limit", title_fontsize=6.5)
    return figure


def _roof(axes: Axes, chart: RoofChart, dtype: str, ends: tuple[float, float]) -> None:
    peak = chart.flop_per_s[dtype]
    xs = np.geomspace(*ends, 200)
    ys = np.minimum(peak, xs * chart.bytes_per_s) if chart.bytes_per_s else np.full_like(xs, peak)
    axes.plot(xs, ys, color=TEXT, linewidth=1.0, zorder=2)
    said = f"{dtype} {quantity_text(peak, 'flop/s')}"
    if chart.bytes_per_s:
        said += f", {chart.memory} {quantity_text(chart.bytes_per_s, 'bytes/s')}"
    middle = math.sqrt(ends[0] * ends[1])
    axes.annotate(
        said, (middle, peak), (0, 3), textcoords="offset points", fontsize=6, color=QUIET, ha="center", in_layout=False
    )
