"""Net energy a token: joules beyond what the device takes when idle."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import idle_power_w, steps
from efficientllm.analysis.metrics.energy_per_token import energy_per_token
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def energy_net_per_token(measurement: Measurement, window: Window) -> float | Absent:
    """Return joules a token, less idle power times the window. Reads: figure `energy_j`, idle power without a context.

    >>> from efficientllm.analysis.metrics._example import calibrated, measured
    >>> from efficientllm.records.window import Work
    >>> given = {"figures": {"energy_j": 30.0}, "work": Work(tokens=5), "step_s": (0.5, 0.5)}
    >>> energy_net_per_token(*measured(**given, ceilings=calibrated(idle_power_w=10.0)))
    2.0
    """
    gross, idle_w = energy_per_token(measurement, window), idle_power_w(measurement)
    values = steps(measurement, window)
    if isinstance(gross, Absent):
        return gross
    if isinstance(idle_w, Absent):
        return idle_w
    if isinstance(values, Absent):
        return values
    told = window.figures.get("energy_net_j")  # net of idle before and after the trial, where meters saw both
    if told is not None and told > 0:
        return told / (window.work.tokens * len(values))
    net = gross - idle_w * (window.end_s - window.begin_s) / (window.work.tokens * len(values))
    return net if net > 0 else Absent("the window took no more energy than idling: too short, or idle power has moved")


ENTRY = MetricEntry(
    column=Column(
        key="energy_net_per_token",
        title="Net energy",
        unit="j/token",
        better="low",
        meaning="joules a token beyond idle power",
    ),
    group="energy",
    measure=energy_net_per_token,
    order=3,
)
