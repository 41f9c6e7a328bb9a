"""Adapter on disk: size of the file that fine-tuning leaves beside its base model."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import figure_of_trial
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def adapter_bytes(measurement: Measurement, window: Window) -> float | Absent:
    """Return the size of what fine-tuning saves, in bytes.

    Reads: figure `adapter_bytes` of the trial.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> adapter_bytes(*measured(whole={"adapter_bytes": 7.0}))
    7.0
    """
    return figure_of_trial(measurement, "adapter_bytes")


ENTRY = MetricEntry(
    column=Column(
        key="adapter_bytes",
        title="Adapter on disk",
        unit="bytes",
        better="low",
        meaning="size of the file that fine-tuning leaves beside its base model",
    ),
    group="compression",
    windows=ALL_WINDOWS,
    measure=adapter_bytes,
    order=20,
)
