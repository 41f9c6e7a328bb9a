"""Parameters: stored parameters, tied ones once."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import model_facts
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def parameters(measurement: Measurement, window: Window) -> float | Absent:
    """Return the stored parameters, tied ones once, counted from shapes. Reads: the model's counts.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> parameters(*measured(model=facts(total=7)))
    7
    """
    counts = model_facts(measurement)
    return counts if isinstance(counts, Absent) else counts.parameters_total


ENTRY = MetricEntry(
    column=Column(key="parameters", title="Parameters", unit="count", meaning="stored parameters, tied ones once"),
    group="model",
    windows=ALL_WINDOWS,
    measure=parameters,
    order=0,
)
