"""Token throughput: tokens trained on, prefilled or generated a second."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import TIMED, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import per_second
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def tokens_per_s(measurement: Measurement, window: Window) -> float | Absent:
    """Return tokens a step times steps, over the seconds of all steps. Reads: work, series `step_s`.

    Source: arXiv 2505.13840, TT in training and IT in inference; its per-parameter form is
    `tokens_per_s_per_parameter`.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> from efficientllm.records.window import Work
    >>> tokens_per_s(*measured(work=Work(tokens=100), step_s=(0.5, 0.3)))
    250.0
    """
    return per_second(measurement, window, window.work.tokens, "tokens")


ENTRY = MetricEntry(
    column=Column(
        key="tokens_per_s",
        title="Throughput",
        symbol="TT, IT",
        unit="tokens/s",
        better="high",
        meaning="tokens trained on, prefilled or generated a second",
    ),
    group="throughput",
    headline=TIMED,
    titles={"generate": "Output"},
    measure=tokens_per_s,
    order=0,
)
