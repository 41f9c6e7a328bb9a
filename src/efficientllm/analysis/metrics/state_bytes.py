"""State: constant decode state a sequence."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import model_facts
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def state_bytes(measurement: Measurement, window: Window) -> float | Absent:
    """Return the constant decode state a sequence, counted from shapes. Reads: the model's counts.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> state_bytes(*measured(model=facts(state_bytes=7)))
    7
    """
    counts = model_facts(measurement)
    return counts if isinstance(counts, Absent) else counts.state_bytes


ENTRY = MetricEntry(
    column=Column(key="state_bytes", title="State", unit="bytes", meaning="constant decode state a sequence"),
    group="model",
    windows=ALL_WINDOWS,
    measure=state_bytes,
    order=5,
)
