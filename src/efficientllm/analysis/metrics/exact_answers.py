"""Exact answers: share of held-out prompts whose own response ends with the right answer."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import quality_window, share_above_zero
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def exact_answers(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of right answers.

    Reads: figures `exact_answers_ratio` and `asked_samples` of the trial's quality window.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> exact_answers(*measured("quality", figures={"exact_answers_ratio": 0.5, "asked_samples": 64.0}))
    0.5
    >>> exact_answers(*measured("quality", figures={"exact_answers_ratio": 0.0, "asked_samples": 64.0})).reason
    'at_floor: 0 of 64 are right, which zero right ones would explain too'
    """
    judged = quality_window(measurement, window)
    return (
        judged
        if isinstance(judged, Absent)
        else share_above_zero(measurement, judged, "exact_answers_ratio", "asked_samples")
    )


ENTRY = MetricEntry(
    column=Column(
        key="exact_answers",
        title="Exact answers",
        unit="ratio",
        better="high",
        meaning="share of held-out prompts whose own response ends with the right answer",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    margin=0.01,
    measure=exact_answers,
    order=11,
)
