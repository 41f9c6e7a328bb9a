"""Gradients: bytes that the gradients of the trained parameters take."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import figure_of_trial
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def gradient_bytes(measurement: Measurement, window: Window) -> float | Absent:
    """Return the bytes of all gradients.

    Reads: figure `gradient_bytes` of the trial.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> gradient_bytes(*measured(whole={"gradient_bytes": 7.0}))
    7.0
    """
    return figure_of_trial(measurement, "gradient_bytes")


ENTRY = MetricEntry(
    column=Column(
        key="gradient_bytes",
        title="Gradients",
        unit="bytes",
        better="low",
        meaning="bytes that the gradients of the trained parameters take",
    ),
    group="memory",
    measure=gradient_bytes,
    order=21,
)
