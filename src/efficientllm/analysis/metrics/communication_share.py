"""Communication share: the part of a training step in which ranks talk to each other."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure, steps
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def communication_share(measurement: Measurement, window: Window) -> float | Absent:
    """Return the time of collectives in a step over the mean step.

    Reads: figure `communication_s_per_step` (mean over ranks; profiled over a few steps after the window, whose
    weights stay as they are), series `step_s`. Counts: all of it, also what computation hides; the part that nothing
    hides is the figure `communication_exposed_s_per_step`. A rank's waiting for a slower one counts. Source: arXiv
    2505.13840, AL, whose iteration is computation plus communication; `latency_mean` is that sum.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> communication_share(*measured(figures={"communication_s_per_step": 0.1}, step_s=(0.5, 0.3)))
    0.25
    >>> communication_share(*measured(step_s=(0.5, 0.3))).reason
    'one process trains alone and talks to nobody'
    """
    if getattr(measurement.trial.settings, "ranks", 1) == 1 and "communication_s_per_step" not in window.figures:
        return Absent("one process trains alone and talks to nobody")
    talking_s, values = find_figure(measurement, window, "communication_s_per_step"), steps(measurement, window)
    if isinstance(talking_s, Absent):
        return talking_s
    return values if isinstance(values, Absent) else talking_s * len(values) / sum(values)


ENTRY = MetricEntry(
    column=Column(
        key="communication_share",
        title="Communication",
        unit="ratio",
        better="low",
        meaning="time in which ranks talk to each other over the mean step, also where computation hides it",
    ),
    group="latency",
    windows=("train",),
    measure=communication_share,
    order=60,
)
