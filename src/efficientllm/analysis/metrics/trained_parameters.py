"""Trained parameters: parameters that fine-tuning changes."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import figure_of_trial
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def trained_parameters(measurement: Measurement, window: Window) -> float | Absent:
    """Return how many parameters are trained.

    Reads: figure `trained_parameters` of the trial.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> trained_parameters(*measured(whole={"trained_parameters": 7.0}))
    7.0
    """
    return figure_of_trial(measurement, "trained_parameters")


ENTRY = MetricEntry(
    column=Column(
        key="trained_parameters",
        title="Trained parameters",
        unit="count",
        meaning="parameters that fine-tuning changes",
    ),
    group="model",
    windows=ALL_WINDOWS,
    measure=trained_parameters,
    order=2,
)
