"""Held-out loss: held-out cross-entropy a token."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure, quality_window
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def loss(measurement: Measurement, window: Window) -> float | Absent:
    """Return the held-out cross-entropy a token.

    Reads: figure `heldout_nats_per_token` of the trial's quality window. Random weights have none.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> loss(*measured("quality", figures={"heldout_nats_per_token": 2.0}))
    2.0
    >>> loss(*measured("decode")).reason
    'quality was not judged in this trial'
    """
    judged = quality_window(measurement, window)
    return judged if isinstance(judged, Absent) else find_figure(measurement, judged, "heldout_nats_per_token")


ENTRY = MetricEntry(
    column=Column(
        key="loss", title="Held-out loss", unit="nats/token", better="low", meaning="held-out cross-entropy a token"
    ),
    group="quality",
    windows=ALL_WINDOWS,
    margin=0.01,
    measure=loss,
    order=2,
)
