"""Energy a token: joules of the window over its tokens."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import TIMED, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import energy_per
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def energy_per_token(measurement: Measurement, window: Window) -> float | Absent:
    """Return joules a token, gross: idle power is part of it. Reads: figure `energy_j`, work, series `step_s`.

    Source: arXiv 2505.13840, AEC, which is a mean power (`power_mean`); joules decide, since a technique at fewer watts
    for a longer time may well cost more.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> from efficientllm.records.window import Work
    >>> energy_per_token(*measured(figures={"energy_j": 30.0}, work=Work(tokens=5, samples=5), step_s=(0.5, 0.5)))
    3.0
    >>> energy_per_token(*measured(absent={"energy_j": "no energy counter on this machine"})).reason
    'no energy counter on this machine'
    """
    return energy_per(measurement, window, window.work.tokens, "tokens")


ENTRY = MetricEntry(
    column=Column(
        key="energy_per_token",
        title="Energy/token",
        symbol="AEC",
        unit="j/token",
        better="low",
        meaning="joules a token, idle power included",
    ),
    group="energy",
    headline=TIMED,
    measure=energy_per_token,
    order=0,
)
