"""Trained parameters: parameters that fine-tuning changes."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import model_facts
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def trained_parameters(measurement: Measurement, window: Window) -> float | Absent:
    """Return how many parameters are trained, counted from shapes. Reads: the model's counts.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> trained_parameters(*measured(model=facts(parameters_trained=7)))
    7
    >>> trained_parameters(*measured(model=facts())).reason
    'nothing was trained in this trial'
    """
    counts = model_facts(measurement)
    if isinstance(counts, Absent):
        return counts
    return counts.parameters_trained or Absent("nothing was trained in this trial")


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
