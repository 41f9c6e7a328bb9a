"""Answer flips: share of questions that are answered otherwise than by the baseline."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import TASKS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_series
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def answer_flips(measurement: Measurement, window: Window, baseline: Measurement) -> float | Absent:
    """Return the share of items whose choice is another one than the baseline's in the same round.

    Where a model answers in its own words, a flip is an answer right of one and wrong of the other. Equal accuracy may
    hide flips in both directions. Reads: series `item_pick`, else `item_right`.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> own, window = measured("task_quiz", item_pick=series(0, 1, 2, 1))
    >>> answer_flips(own, window, measured("task_quiz", item_pick=series(0, 1, 1, 1))[0])
    0.25
    """
    theirs = baseline.find(window.name)
    if theirs is None:
        return Absent("baseline: these questions were not asked")
    name = "item_pick" if window.find("item_pick") and theirs.find("item_pick") else "item_right"
    own, other = find_series(measurement, window, name), find_series(baseline, theirs, name)
    if isinstance(own, Absent):
        return own
    if isinstance(other, Absent):
        return Absent(f"baseline: {other.reason}")
    if len(own.values) != len(other.values):
        return Absent("the baseline was asked other questions")
    return sum(x != y for x, y in zip(own.values, other.values, strict=True)) / len(own.values)


ENTRY = MetricEntry(
    column=Column(
        key="answer_flips",
        title="Answer flips",
        unit="ratio",
        better="low",
        meaning="share of questions that are answered otherwise than by the baseline",
    ),
    group="quality",
    windows=TASKS,
    against=answer_flips,
    order=13,
)
