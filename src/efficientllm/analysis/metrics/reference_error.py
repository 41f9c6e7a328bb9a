"""Reference error: relative error of the fast forward pass against the plain reference, in float32."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import CHECKED, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def reference_error(measurement: Measurement, window: Window) -> float | Absent:
    """Return the relative error of the fast forward pass against the plain reference, in float32.

    Reads: figure `reference_error_ratio` of the window `verify`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> reference_error(*measured("verify", figures={"reference_error_ratio": 2e-7}))
    2e-07
    """
    return find_figure(measurement, window, "reference_error_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="reference_error",
        title="Reference error",
        unit="error",
        better="low",
        meaning="relative error of the fast forward pass against the plain reference, in float32",
    ),
    group="quality",
    windows=CHECKED,
    headline=CHECKED,
    measure=reference_error,
    order=0,
)
