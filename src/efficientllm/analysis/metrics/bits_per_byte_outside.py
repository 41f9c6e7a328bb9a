"""Outside bits/byte: loss on text of another kind than the training text, in bits a byte."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window

_WINDOW = "quality_outside"


def bits_per_byte_outside(measurement: Measurement, window: Window) -> float | Absent:
    """Return the loss on the corpus `outside`, in bits a byte of its text.

    Reads: figure `heldout_bits_per_byte` of the trial's window `quality_outside`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> bits_per_byte_outside(*measured("quality_outside", figures={"heldout_bits_per_byte": 2.5}))
    2.5
    >>> bits_per_byte_outside(*measured("train")).reason
    'no text of another kind was scored: the setting `outside` names one'
    """
    judged = measurement.find(_WINDOW)
    if judged is None:
        return Absent("no text of another kind was scored: the setting `outside` names one")
    if judged.outcome != "ok":
        return Absent(judged.reason or judged.outcome)
    return find_figure(measurement, judged, "heldout_bits_per_byte")


ENTRY = MetricEntry(
    column=Column(
        key="bits_per_byte_outside",
        title="Outside bits/byte",
        unit="bits/byte",
        better="low",
        meaning="loss on text of another kind than the training text, in bits a byte of it",
    ),
    group="quality",
    windows=ALL_WINDOWS,
    margin=0.01,
    measure=bits_per_byte_outside,
    order=1,
)
