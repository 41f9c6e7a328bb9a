"""Low-precision error: relative error in the recipe's own number format against the float32 reference."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import CHECKED, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def low_precision_error(measurement: Measurement, window: Window) -> float | Absent:
    """Return the relative error of nine tokens in ten in the recipe's number format, against float32.

    Reads: figure `low_precision_error_ratio` of the window `verify`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> low_precision_error(*measured("verify", figures={"low_precision_error_ratio": 2e-7}))
    2e-07
    """
    return find_figure(measurement, window, "low_precision_error_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="low_precision_error",
        title="Low-precision error",
        unit="error",
        better="low",
        meaning="relative error of nine tokens in ten in the recipe's number format against the float32 reference",
    ),
    group="quality",
    windows=CHECKED,
    headline=CHECKED,
    measure=low_precision_error,
    order=3,
)
