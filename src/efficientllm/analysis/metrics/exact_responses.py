"""Exact responses: share of held-out responses that greedy decoding gives token by token."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._exact import Exact
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window

_EXACT = Exact(
    ratio="exact_responses_ratio",
    items="judged_samples",
    floor="commonest_response_ratio",
    what="the commonest training response",
)


def exact_responses(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of held-out responses told exactly.

    Reads: figure `exact_responses_ratio` of the trial's quality window. A row that does not clear the share of
    `commonest_response_ratio` of the trial, nor zero, is at its floor.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> exact_responses(*measured("quality", figures={"exact_responses_ratio": 0.5, "judged_samples": 64.0}))
    0.5
    """
    return _EXACT.share(measurement, window)


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
    floor=_EXACT.at_floor,
    order=10,
)
