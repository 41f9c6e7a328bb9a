"""Allocated peak: most that torch's allocator had handed out to tensors."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def allocated_peak(measurement: Measurement, window: Window) -> float | Absent:
    """Return most that torch's allocator had handed out to tensors, in bytes; of several ranks the largest.

    Reads: figure `allocated_peak_bytes`, reset as the window opens.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> allocated_peak(*measured(figures={"allocated_peak_bytes": 7.0}))
    7.0
    """
    return find_figure(measurement, window, "allocated_peak_bytes")


ENTRY = MetricEntry(
    column=Column(
        key="allocated_peak",
        title="Allocated peak",
        unit="bytes",
        better="low",
        meaning="most that torch's allocator had handed out to tensors",
    ),
    group="memory",
    measure=allocated_peak,
    order=2,
)
