"""Forgetting: how much the loss on the pretraining text rose through fine-tuning."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import figure_of_trial
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def forgetting(measurement: Measurement, window: Window) -> float | Absent:
    """Return the rise of the loss on held-out pretraining text, in nats a token.

    Reads: figure `forgetting_nats_per_token` of the trial.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> forgetting(*measured(whole={"forgetting_nats_per_token": 7.0}))
    7.0
    """
    return figure_of_trial(measurement, "forgetting_nats_per_token")


ENTRY = MetricEntry(
    column=Column(
        key="forgetting",
        title="Forgetting",
        unit="nats/token",
        better="low",
        meaning="how much the loss on the pretraining text rose through fine-tuning",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    measure=forgetting,
    order=20,
)
