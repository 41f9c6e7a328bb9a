"""Exact responses: share of held-out responses that greedy decoding gives token by token."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import quality_window, share_above_zero
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def exact_responses(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of held-out responses told exactly.

    Reads: figures `exact_responses_ratio` and `judged_samples` of the trial's quality window.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> exact_responses(*measured("quality", figures={"exact_responses_ratio": 0.5, "judged_samples": 64.0}))
    0.5
    >>> exact_responses(*measured("quality", figures={"exact_responses_ratio": 0.0, "judged_samples": 64.0})).reason
    'at_floor: 0 of 64 are right, which zero right ones would explain too'
    """
    judged = quality_window(measurement, window)
    return (
        judged
        if isinstance(judged, Absent)
        else share_above_zero(measurement, judged, "exact_responses_ratio", "judged_samples")
    )


ENTRY = MetricEntry(
    column=Column(
        key="exact_responses",
        title="Exact responses",
        unit="ratio",
        better="high",
        meaning="share of held-out responses that greedy decoding gives token by token",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    margin=0.01,
    measure=exact_responses,
    order=10,
)
