"""KL divergence: how far next-token distributions are from those of the reference precision."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure, quality_window
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def kl_divergence(measurement: Measurement, window: Window) -> float | Absent:
    """Return KL(reference ‖ own) of next-token distributions, in nats a token, on the same text.

    Reads: figure `kl_nats_per_token` of the quality window, a domain's own where it is asked of one.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> kl_divergence(*measured("quality_code", figures={"kl_nats_per_token": 0.01}))
    0.01
    """
    judged = quality_window(measurement, window)
    return judged if isinstance(judged, Absent) else find_figure(measurement, judged, "kl_nats_per_token")


ENTRY = MetricEntry(
    column=Column(
        key="kl_divergence",
        title="KL divergence",
        unit="nats/token",
        better="low",
        meaning="how far next-token distributions are from those of the reference precision, on the same text",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    measure=kl_divergence,
    order=5,
)
