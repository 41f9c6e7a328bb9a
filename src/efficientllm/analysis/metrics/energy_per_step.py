"""Energy a step: joules of the window over its steps."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import energy_per
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def energy_per_step(measurement: Measurement, window: Window) -> float | Absent:
    """Return joules a step, gross: idle power is part of it. Reads: figure `energy_j`, work, series `step_s`.

    Source: arXiv 2505.13840, AEC, which is a mean power (`power_mean`); joules decide, since a technique at fewer watts
    for a longer time may well cost more.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> from efficientllm.records.window import Work
    >>> energy_per_step(*measured(figures={"energy_j": 30.0}, work=Work(tokens=5, samples=5), step_s=(0.5, 0.5)))
    15.0
    >>> energy_per_step(*measured(absent={"energy_j": "no energy counter on this machine"})).reason
    'no energy counter on this machine'
    """
    return energy_per(measurement, window, 1, "steps")


ENTRY = MetricEntry(
    column=Column(
        key="energy_per_step",
        title="Energy a step",
        unit="j/step",
        better="low",
        meaning="joules a step, idle power included",
    ),
    group="energy",
    measure=energy_per_step,
    order=1,
)
