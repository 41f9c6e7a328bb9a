"""What a metric is: a pure function of a stored measurement and one of its windows.

A new metric needs no new run and no edit elsewhere: one file here that ends with `ENTRY = MetricEntry(...)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from efficientllm.analysis.table import Cell, Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window

#: In a metric's docstring: what it is computed from.
_READS = re.compile(r"Reads: (.+?)(?:\.(?: |$)|\.?(?: >>>|$))")

#: The six efficiency metrics and quality, in the order of a table's columns; a card's claims use the same words.
GROUPS = ("memory", "compute", "latency", "throughput", "energy", "compression", "quality")

TIMED = ("train", "prefill", "decode", "generate", "serve", "user")
ALL_WINDOWS = (*TIMED, "quality")
#: Holds errors against a reference, no time.
CHECKED = ("verify",)
#: Holds what a search found, no time.
FOUND = ("capacity",)
#: Holds answers to one set of questions: a window `task_NAME`.
TASKS = ("task",)


@dataclass(frozen=True)
class Absent:
    """There is no figure, for this reason (a sentence for the reader)."""

    reason: str


Plain = Callable[[Measurement, Window], float | Absent]
Against = Callable[[Measurement, Window, Measurement], float | Absent]
#: A row's cell, and the records and windows behind it -> why the figure is one of no skill at all, or empty.
Floor = Callable[[Cell, Sequence[tuple[Measurement, Window]]], str]


@dataclass(frozen=True, kw_only=True)
class MetricEntry:
    """A metric's entry.

    Attributes:
        column: key (the file's name), title, symbol, unit, better, meaning.
        group: one of `GROUPS`, or `model` for counts that are only stated.
        windows: names of the windows it applies to.
        measure: the function, for a metric that needs nothing else.
        against: the function, for a metric that needs the baseline's measurement of the same round too.
        headline: windows in whose tables it is the one column of its group.
        titles: window -> heading, where it differs (`TPOT`).
        margin: relative difference that does not matter, for the verdict `equivalent`.
        order: place within its group.
        judges: the word of a card's claims that this metric judges, where the headline of the group does not: a
            technique that "costs compute" does more arithmetic, whatever its utilisation.
        floor: tells whether a row is at this metric's floor; such a cell has no value, but the reason.
    """

    column: Column
    group: str
    windows: tuple[str, ...] = TIMED
    measure: Plain | None = None
    against: Against | None = None
    headline: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    margin: float = 0.02
    order: int = 50
    judges: str = ""
    floor: Floor | None = None

    def column_for(self, window: str) -> Column:
        """Return the column as a table of this window heads it."""
        return replace(self.column, title=self.titles.get(window, self.column.title))

    def applies(self, window: str) -> bool:
        """Whether a window of this name can have the metric: one of a domain (`quality_code`) has those of quality."""
        kind, _, name = window.partition("_")
        of_a_text = bool(name) and kind == "quality" and self.group == "quality"
        return window in self.windows or ((of_a_text or kind in TASKS) and kind in self.windows)

    def reads(self) -> str:
        """Return what the metric is computed from, as its function's docstring says it, empty where it does not.

        >>> from efficientllm.analysis.metrics.latency_median import ENTRY
        >>> ENTRY.reads()
        'series `step_s`'
        """
        said = " ".join((getattr(self.measure or self.against, "__doc__", "") or "").split())
        found = _READS.search(said)
        return found[1] if found else ""

    def value(self, measurement: Measurement, window: Window, baseline: Measurement | None = None) -> float | Absent:
        """Return the figure, or why there is none."""
        if not self.applies(window.name):
            return Absent(f"not defined for {window.name}")
        if self.measure is not None:
            return self.measure(measurement, window)
        if baseline is None:
            return Absent("no baseline to compare with: the recipe names none, or it has no valid result in this round")
        assert self.against is not None  # an entry has one of the two
        return self.against(measurement, window, baseline)
