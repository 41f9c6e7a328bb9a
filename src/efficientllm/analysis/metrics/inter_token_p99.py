"""p99 inter-token time: the time between tokens that 99 % of them stay below."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import percentile_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def inter_token_p99(measurement: Measurement, window: Window) -> float | Absent:
    """Return the 99th percentile of the time between tokens, in seconds; it needs 1,000 of them.

    Reads: series `inter_token_s`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> from msgspec.structs import replace
    >>> record, window = measured("generate")
    >>> times = replace(series(*(0.5,) * 999), name="inter_token_s")
    >>> inter_token_p99(record, replace(window, series=(times,))).reason
    'p99 needs 1000 samples, there are 999'
    """
    return percentile_of(measurement, window, "inter_token_s", 99)


ENTRY = MetricEntry(
    column=Column(
        key="inter_token_p99",
        title="p99 inter-token",
        unit="s",
        better="low",
        meaning="time between tokens of the answers that 99 % of them stay below",
    ),
    group="latency",
    windows=("generate",),
    measure=inter_token_p99,
    order=13,
)
