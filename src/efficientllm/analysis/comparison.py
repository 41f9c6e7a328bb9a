"""The shape of a finished comparison of two sides, with every decision already taken. `b` is judged against `a`."""

from __future__ import annotations

import msgspec

from efficientllm.analysis.table import Column

#: What a conclusion of one side is on the other.
CARRIES_OVER, FLIPS, FADES, UNDECIDED = "carries over", "flips", "fades", "undecided"


class SideFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One side, for the heading.

    Attributes:
        name: as the user gave it.
        measurements: how many records count as its own.
        environment: what it was measured on and with; several values where several were.
    """

    name: str
    measurements: int
    environment: dict[str, str]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on both sides.

    Attributes:
        stage, window, technique: the row; `window` with its coordinates.
        column: the metric.
        a, b: estimates over processes, in the column's unit; `n_a`, `n_b` their numbers of processes.
        ratio, low, high: b/a with its 95 % interval (not corrected for other figures), where there is one.
        paired: whether by round, else by Welch's test.
        p_value: of no difference, Holm-corrected over the whole comparison, or None if there was no test.
        verdict: `better`, `worse`, `equivalent`, `unresolved`; empty where the protocol is too short to judge by.
        limit: whether b keeps within the limit: `holds`, `fails`, `cannot tell`; empty without one.
        reason: why there is no test or no interval, else empty.
    """

    stage: str
    window: str
    technique: str
    column: Column
    a: float
    b: float
    n_a: int
    n_b: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    paired: bool = False
    p_value: float | None = None
    verdict: str = ""
    limit: str = ""
    reason: str = ""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A row with figures on one side only, or that lost some repeats.

    Attributes:
        outcome_a, outcome_b: how it ended there; `missing` where it was not measured.
        reason: of the side that has no figures.
        regression: whether figures of a are gone in b.
    """

    stage: str
    window: str
    technique: str
    outcome_a: str
    outcome_b: str
    reason: str = ""
    regression: bool = False


class Unmatched(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one side that have no partner on the other, all for the same reason.

    Attributes:
        side: `a` or `b`.
        rows: stage and technique of each (`pretrain mha`).
        differs: condition -> this side's and the nearest other row's value; empty where there is no such row at all.
    """

    side: str
    rows: tuple[str, ...]
    differs: dict[str, tuple[str, str]] = {}


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What each side says of one technique against another.

    Attributes:
        technique, other: the pair; `baseline` where `other` is the baseline.
        on_a, on_b: the sides' verdicts of `technique` against `other`, each corrected within its own table.
        ratio_a, ratio_b: technique over other.
        word: `carries over` (the same certain verdict), `flips` (better there, worse here), `fades` (a difference on
            one side, shown equivalent on the other), `undecided`.
    """

    stage: str
    window: str
    column: Column
    technique: str
    other: str
    baseline: bool
    on_a: str
    on_b: str
    ratio_a: float | None = None
    ratio_b: float | None = None
    word: str = UNDECIDED


class ComparisonTable(msgspec.Struct, frozen=True, kw_only=True):
    """Two sides compared.

    Attributes:
        verdict: sentences, most important first.
        same_hardware: whether both were measured on the same devices; else time is a share of the device's limit.
        environment: what differs between the sides' environments -> both values.
        across: conditions that the user let differ.
        fail_over: the limit, or None; `regressions`: why it is broken, one sentence each.
        differences, ended, unmatched, conclusions: all of them, whether significant or not.
        not_compared: metric and reason -> the rows that it concerns, where a figure is absent.
        notes: what else a reader must know.
    """

    a: SideFacts
    b: SideFacts
    verdict: tuple[str, ...] = ()
    same_hardware: bool = True
    environment: dict[str, tuple[str, str]] = {}
    across: tuple[str, ...] = ()
    fail_over: float | None = None
    regressions: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    ended: tuple[Ended, ...] = ()
    unmatched: tuple[Unmatched, ...] = ()
    conclusions: tuple[Conclusion, ...] = ()
    not_compared: dict[str, tuple[str, ...]] = {}
    notes: tuple[str, ...] = ()

    def unresolved(self) -> int:
        """Return how many figures differ by nothing that could be shown, nor are shown to be the same."""
        return sum(one.verdict in ("unresolved", "") for one in self.differences)
