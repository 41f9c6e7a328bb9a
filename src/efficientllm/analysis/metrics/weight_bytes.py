"""Weights: resident size of the weights."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import model_facts
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def weight_bytes(measurement: Measurement, window: Window) -> float | Absent:
    """Return the resident size of the weights, counted from shapes. Reads: the model's counts.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> weight_bytes(*measured(model=facts(weight_bytes=7)))
    7
    """
    counts = model_facts(measurement)
    return counts if isinstance(counts, Absent) else counts.weight_bytes


ENTRY = MetricEntry(
    column=Column(key="weight_bytes", title="Weights", unit="bytes", meaning="resident size of the weights"),
    group="model",
    windows=ALL_WINDOWS,
    measure=weight_bytes,
    order=2,
)
