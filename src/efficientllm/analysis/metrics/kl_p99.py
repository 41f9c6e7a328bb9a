"""KL p99: the divergence from the reference that one token in a hundred exceeds."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure, quality_window
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def kl_p99(measurement: Measurement, window: Window) -> float | Absent:
    """Return the the divergence from the reference that one token in a hundred exceeds.

    Reads: figure `kl_p99_nats` of the quality window, a domain's own where it is asked of one.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> kl_p99(*measured("quality", figures={"kl_p99_nats": 0.5}))
    0.5
    """
    judged = quality_window(measurement, window)
    return judged if isinstance(judged, Absent) else find_figure(measurement, judged, "kl_p99_nats")


ENTRY = MetricEntry(
    column=Column(
        key="kl_p99",
        title="KL p99",
        unit="nats/token",
        better="low",
        meaning="the divergence from the reference that one token in a hundred exceeds, on the same text",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    measure=kl_p99,
    order=6,
)
