"""Energy a sample: joules of the window over its samples."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import energy_per
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def energy_per_sample(measurement: Measurement, window: Window) -> float | Absent:
    """Return joules a sample, gross: idle power is part of it. Reads: figure `energy_j`, work, series `step_s`.

    Source: arXiv 2505.13840, AEC, which is a mean power (`power_mean`); joules decide, since a technique at fewer watts
    for a longer time may well cost more.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> from efficientllm.records.window import Work
    >>> energy_per_sample(*measured(figures={"energy_j": 30.0}, work=Work(tokens=5, samples=5), step_s=(0.5, 0.5)))
    3.0
    >>> energy_per_sample(*measured(absent={"energy_j": "no energy counter on this machine"})).reason
    'no energy counter on this machine'
    """
    return energy_per(measurement, window, window.work.samples, "samples")


ENTRY = MetricEntry(
    column=Column(
        key="energy_per_sample",
        title="Energy a sample",
        unit="j/sample",
        better="low",
        meaning="joules a sample, idle power included",
    ),
    group="energy",
    measure=energy_per_sample,
    order=2,
)
