"""Cache a token: growth of the decode state a token and a sequence."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import model_facts
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def cache_bytes_per_token(measurement: Measurement, window: Window) -> float | Absent:
    """Return the growth of the decode state a token and a sequence, counted from shapes. Reads: the model's counts.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> cache_bytes_per_token(*measured(model=facts(cache_bytes_per_token=7)))
    7
    """
    counts = model_facts(measurement)
    return counts if isinstance(counts, Absent) else counts.cache_bytes_per_token


ENTRY = MetricEntry(
    column=Column(
        key="cache_bytes_per_token",
        title="Cache a token",
        unit="bytes/token",
        meaning="growth of the decode state a token and a sequence",
    ),
    group="model",
    windows=ALL_WINDOWS,
    measure=cache_bytes_per_token,
    order=4,
)
