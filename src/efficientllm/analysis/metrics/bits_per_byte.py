"""Bits/byte: held-out loss in bits a byte of text; compares across tokenizers."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure, quality_window
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def bits_per_byte(measurement: Measurement, window: Window) -> float | Absent:
    """Return the held-out loss in bits a byte of text.

    Reads: figure `heldout_bits_per_byte` of the trial's quality window. Random weights have none.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> bits_per_byte(*measured("quality", figures={"heldout_bits_per_byte": 2.0}))
    2.0
    >>> bits_per_byte(*measured("decode")).reason
    'quality was not judged in this trial'
    """
    judged = quality_window(measurement, window)
    return judged if isinstance(judged, Absent) else find_figure(measurement, judged, "heldout_bits_per_byte")


ENTRY = MetricEntry(
    column=Column(
        key="bits_per_byte",
        title="Bits/byte",
        unit="bits/byte",
        better="low",
        meaning="held-out loss in bits a byte of text; compares across tokenizers",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    headline=ALL_WINDOWS,
    margin=0.01,
    measure=bits_per_byte,
    order=0,
)
