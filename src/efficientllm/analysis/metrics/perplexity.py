"""Perplexity: exp of the held-out loss a token; compares only under one tokenizer."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure, quality_window
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def perplexity(measurement: Measurement, window: Window) -> float | Absent:
    """Return the exp of the held-out loss a token.

    Reads: figure `heldout_perplexity` of the trial's quality window. Random weights have none.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> perplexity(*measured("quality", figures={"heldout_perplexity": 2.0}))
    2.0
    >>> perplexity(*measured("decode")).reason
    'quality was not judged in this trial'
    """
    judged = quality_window(measurement, window)
    return judged if isinstance(judged, Absent) else find_figure(measurement, judged, "heldout_perplexity")


ENTRY = MetricEntry(
    column=Column(
        key="perplexity",
        title="Perplexity",
        unit="perplexity",
        better="low",
        meaning="exp of the held-out loss a token; compares only under one tokenizer",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    margin=0.01,
    measure=perplexity,
    order=1,
)
