"""Sample throughput: rows a second."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import per_second
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def samples_per_s(measurement: Measurement, window: Window) -> float | Absent:
    """Return rows a step times steps, over the seconds of all steps. Reads: work, series `step_s`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> from efficientllm.records.window import Work
    >>> samples_per_s(*measured(work=Work(samples=4), step_s=(0.5, 0.5)))
    8.0
    """
    return per_second(measurement, window, window.work.samples, "samples")


ENTRY = MetricEntry(
    column=Column(
        key="samples_per_s", title="Samples", symbol="ST", unit="samples/s", better="high", meaning="rows a second"
    ),
    group="throughput",
    measure=samples_per_s,
    order=1,
)
