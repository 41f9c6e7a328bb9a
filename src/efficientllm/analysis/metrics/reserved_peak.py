"""Reserved peak: most that torch's allocator had taken from the driver."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def reserved_peak(measurement: Measurement, window: Window) -> float | Absent:
    """Return most that torch's allocator had taken from the driver, in bytes.

    Reads: figure `reserved_peak_bytes`, reset as the window opens.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> reserved_peak(*measured(figures={"reserved_peak_bytes": 7.0}))
    7.0
    """
    return find_figure(measurement, window, "reserved_peak_bytes")


ENTRY = MetricEntry(
    column=Column(
        key="reserved_peak",
        title="Reserved peak",
        unit="bytes",
        better="low",
        meaning="most that torch's allocator had taken from the driver",
    ),
    group="memory",
    measure=reserved_peak,
    order=3,
)
