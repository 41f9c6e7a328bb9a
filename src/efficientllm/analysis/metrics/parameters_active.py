"""Active parameters: parameters that one token uses."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import model_facts
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def parameters_active(measurement: Measurement, window: Window) -> float | Absent:
    """Return the parameters that one token uses, counted from shapes. Reads: the model's counts.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> parameters_active(*measured(model=facts(active=7)))
    7
    """
    counts = model_facts(measurement)
    return counts if isinstance(counts, Absent) else counts.parameters_active


ENTRY = MetricEntry(
    column=Column(
        key="parameters_active", title="Active parameters", unit="count", meaning="parameters that one token uses"
    ),
    group="model",
    windows=ALL_WINDOWS,
    measure=parameters_active,
    order=1,
)
