"""Error to float32: worst relative error of a token's logits against float32 arithmetic on the same weights."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import HELD, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def arithmetic_error(measurement: Measurement, window: Window) -> float | Absent:
    """Return the worst relative error of a token's logits against float32 arithmetic on the same weights.

    Reads: figure `arithmetic_error_ratio` of the window `arithmetic`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> arithmetic_error(*measured("arithmetic", figures={"arithmetic_error_ratio": 2e-3}))
    0.002
    """
    return find_figure(measurement, window, "arithmetic_error_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="arithmetic_error",
        title="Error to fp32",
        unit="error",
        better="low",
        meaning="worst relative error of a token's logits against float32 arithmetic on the same weights",
    ),
    group="quality",
    windows=HELD,
    headline=HELD,
    measure=arithmetic_error,
    order=1,
)
