"""Gradient error: relative error of all gradients against the plain reference's, in float32."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import CHECKED, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def gradient_error(measurement: Measurement, window: Window) -> float | Absent:
    """Return the relative error of all gradients against the plain reference's, in float32.

    Reads: figure `gradient_error_ratio` of the window `verify`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> gradient_error(*measured("verify", figures={"gradient_error_ratio": 2e-7}))
    2e-07
    """
    return find_figure(measurement, window, "gradient_error_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="gradient_error",
        title="Gradient error",
        unit="error",
        better="low",
        meaning="relative error of all gradients against the plain reference's, in float32",
    ),
    group="quality",
    windows=CHECKED,
    headline=CHECKED,
    measure=gradient_error,
    order=1,
)
