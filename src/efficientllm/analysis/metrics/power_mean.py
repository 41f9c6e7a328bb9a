"""Mean power: joules of the window over its seconds, as the paper's AEC."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure, mean_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def power_mean(measurement: Measurement, window: Window) -> float | Absent:
    """Return mean power in watts: the energy counter over the window, else the mean of the power readings.

    Reads: figure `energy_j`, else series `power_w`.
    Not what decides: see `energy_per_token`. Source: arXiv 2505.13840, AEC.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> power_mean(*measured(figures={"energy_j": 30.0}, step_s=(0.5, 0.5)))
    30.0
    >>> power_mean(*measured(power_w=series(100.0, 200.0)))
    150.0
    """
    energy_j = find_figure(measurement, window, "energy_j")
    if not isinstance(energy_j, Absent) and window.end_s > window.begin_s:
        return energy_j / (window.end_s - window.begin_s)
    return mean_of(measurement, window, "power_w")


ENTRY = MetricEntry(
    column=Column(
        key="power_mean", title="Power", symbol="AEC", unit="w", meaning="mean power over the window, the paper's AEC"
    ),
    group="energy",
    measure=power_mean,
    order=4,
)
