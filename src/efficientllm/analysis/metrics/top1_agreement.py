"""Top-1 agreement: how often the likeliest next token is that of the reference precision."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure, quality_window
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def top1_agreement(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of tokens whose likeliest successor is that of the reference precision.

    Reads: figure `top1_agreement_ratio` of the quality window, a domain's own where it is asked of one.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> top1_agreement(*measured("quality", figures={"top1_agreement_ratio": 0.5}))
    0.5
    """
    judged = quality_window(measurement, window)
    return judged if isinstance(judged, Absent) else find_figure(measurement, judged, "top1_agreement_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="top1_agreement",
        title="Top-1 agreement",
        unit="ratio",
        better="high",
        meaning="share of tokens whose likeliest successor is that of the reference precision, on the same text",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    measure=top1_agreement,
    order=7,
)
