"""Divergence to float32: worst divergence of a token's distribution from float32 arithmetic on the same weights."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import HELD, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def arithmetic_divergence(measurement: Measurement, window: Window) -> float | Absent:
    """Return the worst divergence of a token's distribution from float32 arithmetic on the same weights.

    Reads: figure `arithmetic_divergence_nats` of the window `arithmetic`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> arithmetic_divergence(*measured("arithmetic", figures={"arithmetic_divergence_nats": 2e-3}))
    0.002
    """
    return find_figure(measurement, window, "arithmetic_divergence_nats")


ENTRY = MetricEntry(
    column=Column(
        key="arithmetic_divergence",
        title="Divergence to fp32",
        unit="nats/token",
        better="low",
        meaning="worst divergence of a token's distribution from float32 arithmetic on the same weights",
    ),
    group="quality",
    windows=HELD,
    headline=HELD,
    measure=arithmetic_divergence,
    order=2,
)
