"""Weights on disk: size of the saved weights."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def disk_bytes(measurement: Measurement, window: Window) -> float | Absent:
    """Return the size of the saved weights, in bytes. Reads: figure `disk_bytes`, else the model's counts.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> disk_bytes(*measured(model=facts(disk_bytes=7)))
    7
    """
    told = measurement.figures.get("disk_bytes", 0.0) or (measurement.model.disk_bytes if measurement.model else 0)
    return told or Absent("nothing was saved in this trial")


ENTRY = MetricEntry(
    column=Column(key="disk_bytes", title="Weights on disk", unit="bytes", meaning="size of the saved weights"),
    group="model",
    windows=ALL_WINDOWS,
    measure=disk_bytes,
    order=3,
)
