"""Accuracy: share of questions answered right."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from efficientllm.analysis.metrics._contract import TASKS, Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Cell, Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.stats.chance import clears
from efficientllm.units import significant

#: Figures of the window that say what no skill gets.
_FLOORS = {"chance_ratio": "chance", "commonest_answer_ratio": "the commonest answer to every question"}


def accuracy(measurement: Measurement, window: Window) -> float | Absent:
    """Return the share of right answers, by the likelihood a byte of text where there are choices.

    Reads: figure `accuracy_ratio` of the window. A row that does not clear chance, the commonest answer, or zero, is
    at its floor.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> accuracy(*measured("task_quiz", figures={"accuracy_ratio": 0.5}))
    0.5
    """
    return find_figure(measurement, window, "accuracy_ratio")


def at_floor(cell: Cell, seen: Sequence[tuple[Measurement, Window]]) -> str:
    """Return why a row's accuracy does not clear its floor, by the exact binomial interval; empty if it does.

    Repeats answer the same items, so that their mean counts as one run over them.
    """
    items = [w.figures["asked_items"] for _, w in seen if "asked_items" in w.figures]
    if not cell.values or not items:
        return ""
    number, share = round(min(items)), statistics.fmean(cell.values.values())
    floors = {what: max(w.figures.get(key, 0.0) for _, w in seen) for key, what in _FLOORS.items()}
    what, floor = max(floors.items(), key=lambda item: item[1])
    if clears(round(share * number), number, floor):
        return ""
    right = _number(share * number)
    instead = f"; {what} has {_number(floor * number)}" if floor else ", which zero would explain too"
    return f"at_floor: {right} of {number} are right{instead}"


def _number(items: float) -> str:
    """Return a number of items; the mean over repeats, and what chance has, need not be whole.

    >>> _number(25.0), _number(100 / 3)
    ('25', '33.3')
    """
    return f"{items:.0f}" if math.isclose(items, round(items), abs_tol=1e-6) else significant(items)


ENTRY = MetricEntry(
    column=Column(key="accuracy", title="Accuracy", unit="ratio", better="high", meaning="share of right answers"),
    group="quality",
    windows=TASKS,
    margin=0.01,
    measure=accuracy,
    floor=at_floor,
    order=12,
)
