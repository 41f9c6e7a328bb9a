"""Shares of right responses: read from the quality window, and held against what says the same to every prompt."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.analysis.metrics._contract import Absent
from efficientllm.analysis.metrics._reading import find_figure, quality_window
from efficientllm.analysis.table import Cell
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.stats.chance import clears
from efficientllm.units import significant


@dataclass(frozen=True, kw_only=True)
class Exact:
    """One such share.

    Attributes:
        ratio, items: figures of the quality window: the share, and of how many.
        floor: figure of the trial: the share that the commonest training response has of the same items.
        what: what that response is called.
    """

    ratio: str
    items: str
    floor: str
    what: str

    def share(self, measurement: Measurement, window: Window) -> float | Absent:
        """Return the share of right ones, or why there is none."""
        return _of_quality(measurement, window, self.ratio)

    def at_floor(self, cell: Cell, seen: Sequence[tuple[Measurement, Window]]) -> str:
        """Return why a row's share does not clear its floor; empty if it does.

        Repeats are judged by the same items, so that the row's mean counts as one run over them: its lower 95 % bound
        must lie above the floor, which is zero where none was recorded.
        """
        items = [n for m, w in seen if isinstance(n := _of_quality(m, w, self.items), float)]
        if not cell.values or not items:
            return ""
        number, floor = round(min(items)), max(m.figures.get(self.floor, 0.0) for m, _ in seen)
        share = statistics.fmean(cell.values.values())
        if clears(round(share * number), number, floor):
            return ""
        right = significant(share * number) if share and len(cell.values) > 1 else f"{share * number:.0f}"
        instead = f"; {self.what} given to every prompt has {floor * number:.0f}"
        return f"at_floor: {right} of {number} are right{instead if floor else ', which zero would explain too'}"


def _of_quality(measurement: Measurement, window: Window, name: str) -> float | Absent:
    judged = quality_window(measurement, window)
    return judged if isinstance(judged, Absent) else find_figure(measurement, judged, name)
