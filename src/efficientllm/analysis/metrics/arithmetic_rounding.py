"""Error of rounding alone: how far rounding moves a token's logits in float32 arithmetic, at the worst token."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import HELD, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def arithmetic_rounding(measurement: Measurement, window: Window) -> float | Absent:
    """Return the worst relative error of a token's logits that rounding alone makes, in float32 arithmetic.

    Reads: figure `arithmetic_rounding_ratio` of the window `arithmetic`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> arithmetic_rounding(*measured("arithmetic", figures={"arithmetic_rounding_ratio": 2e-3}))
    0.002
    """
    return find_figure(measurement, window, "arithmetic_rounding_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="arithmetic_rounding",
        title="Rounding alone",
        unit="error",
        better="",
        meaning="worst relative error of a token's logits that rounding alone makes, in float32 arithmetic",
    ),
    group="quality",
    windows=HELD,
    headline=HELD,
    measure=arithmetic_rounding,
    order=3,
)
