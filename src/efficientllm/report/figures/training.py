"""Training curves on paper: the loss of every run and the mean of its repeats, against tokens, time and energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from efficientllm.records.measurement import Measurement
from efficientllm.report.curves import Curve, curves
from efficientllm.report.figures.look import QUIET, Ink, Scale, new_figure, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {"tokens": ("tokens", "count"), "seconds": ("time", "s"), "joules": ("energy", "j")}
#: More techniques than this, and their names stand in two columns.
_ONE_COLUMN = 5


def figures(measurements: Sequence[Measurement], ink: Mapping[str, Ink]) -> Iterator[tuple[str, str, Figure]]:
    """Return stage, what the loss is drawn against, and the figure."""
    found = curves(measurements)
    for stage in dict.fromkeys(curve.stage for curve in found):
        for kind, (title, unit) in _KINDS.items():
            shown = [curve for curve in found if curve.stage == stage and getattr(curve, kind)]
            if shown:
                yield (
                    stage,
                    title,
                    _figure(stage, shown, kind, scale_of([getattr(c, kind)[-1] for c in shown], unit), ink),
                )


def _figure(stage: str, shown: Sequence[Curve], kind: str, scale: Scale, ink: Mapping[str, Ink]) -> Figure:
    figure, axes = new_figure()
    techniques = list(dict.fromkeys(curve.technique for curve in shown))
    for name in techniques:
        runs = [curve for curve in shown if curve.technique == name]
        for run in runs if len(runs) > 1 else ():
            axes.plot(_scaled(run, kind, scale), run.loss, color=ink[name].colour, linewidth=0.4, alpha=0.25)
        _mean(axes, runs, kind, scale, name, ink[name])
    axes.set_xlabel(scale.label(_KINDS[kind][0]))
    axes.set_ylabel("training loss (nats/token)")
    axes.set_title(stage, fontsize=7, color=QUIET, loc="left")
    axes.legend(ncols=1 if len(techniques) <= _ONE_COLUMN else 2, handlelength=2.2)
    return figure


def _scaled(run: Curve, kind: str, scale: Scale) -> list[float]:
    return [value / scale.divisor for value in getattr(run, kind)]


def _mean(axes: Axes, runs: Sequence[Curve], kind: str, scale: Scale, name: str, ink: Ink) -> None:
    points = min(len(run.loss) for run in runs)
    same = [run for run in runs if len(run.loss) == points]
    xs = [sum(at) / len(same) for at in zip(*(_scaled(run, kind, scale) for run in same), strict=True)]
    ys = [sum(at) / len(same) for at in zip(*(run.loss for run in same), strict=True)]
    axes.plot(xs, ys, color=ink.colour, linestyle=ink.dashes, label=name)
