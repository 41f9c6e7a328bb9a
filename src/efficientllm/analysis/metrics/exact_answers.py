"""Exact answers: share of held-out prompts whose own response ends with the right answer."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._exact import Exact
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window

_EXACT = Exact(
    ratio="exact_answers_ratio",
    items="asked_samples",
    floor="commonest_answer_ratio",
    what="the commonest training answer",
)


def exact_answers(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of right answers.

    Reads: figure `exact_answers_ratio` of the trial's quality window. A row that does not clear the share of
    `commonest_answer_ratio` of the trial, nor zero, is at its floor.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> exact_answers(*measured("quality", figures={"exact_answers_ratio": 0.5, "asked_samples": 64.0}))
    0.5
    """
    return _EXACT.share(measurement, window)


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
    floor=_EXACT.at_floor,
    order=11,
)
