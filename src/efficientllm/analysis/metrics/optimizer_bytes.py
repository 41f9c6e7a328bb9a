"""Optimiser: bytes of the optimiser's state on the device."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import figure_of_trial
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def optimizer_bytes(measurement: Measurement, window: Window) -> float | Absent:
    """Return the bytes of the optimiser's state on the device.

    Reads: figure `optimizer_bytes` of the trial.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> optimizer_bytes(*measured(whole={"optimizer_bytes": 7.0}))
    7.0
    """
    return figure_of_trial(measurement, "optimizer_bytes")


ENTRY = MetricEntry(
    column=Column(
        key="optimizer_bytes",
        title="Optimiser",
        unit="bytes",
        better="low",
        meaning="bytes of the optimiser's state on the device",
    ),
    group="memory",
    measure=optimizer_bytes,
    order=22,
)
