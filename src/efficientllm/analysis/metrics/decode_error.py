"""Decode error: relative error of logits decoded token by token against those computed all at once, in float32."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import CHECKED, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def decode_error(measurement: Measurement, window: Window) -> float | Absent:
    """Return the relative error of logits decoded token by token against those computed all at once, in float32.

    Reads: figure `decode_error_ratio` of the window `verify`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> decode_error(*measured("verify", figures={"decode_error_ratio": 2e-7}))
    2e-07
    """
    return find_figure(measurement, window, "decode_error_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="decode_error",
        title="Decode error",
        unit="error",
        better="low",
        meaning="relative error of logits decoded token by token against those computed all at once, in float32",
    ),
    group="quality",
    windows=CHECKED,
    headline=CHECKED,
    measure=decode_error,
    order=2,
)
