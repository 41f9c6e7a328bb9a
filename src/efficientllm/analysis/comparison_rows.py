"""The rows that two sides share, window by window: the cells of both, and what ended otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from efficientllm.analysis.catalogue import applicable, headline
from efficientllm.analysis.comparison import Ended
from efficientllm.analysis.comparison_match import WINDOW, may_differ
from efficientllm.analysis.comparison_side import SideRow
from efficientllm.analysis.group import Axes, Group, Point, groups, points
from efficientllm.analysis.metrics._contract import MetricEntry
from efficientllm.analysis.rows import failed_row, seen_in
from efficientllm.analysis.section import Table, is_ranked, measured
from efficientllm.analysis.table import Row
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window

#: Heads that say once more what another says on one machine (throughput and MFU of time, compression of memory): each
#: further figure makes the evidence for the others weaker, so they are compared on request.
_ON_REQUEST = ("compute", "compression")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One window of one stage on one side.

    Attributes:
        group: its records, those of shared rows alone.
        window: name and coordinates.
        table: technique -> metric -> cell.
        floored: technique -> why its quality is none.
        rows: technique -> its records.
    """

    group: Group
    window: Window
    table: Table
    floored: dict[str, str]
    rows: dict[str, tuple[Measurement, ...]]

    def failed(self, technique: str) -> Row:
        """Return how a technique without figures ended."""
        if technique not in self.rows:
            return Row(technique=technique, outcome="missing", reason="no row is called so there")
        return failed_row(self.rows[technique], self.window)

    def lost(self, technique: str) -> list[Measurement]:
        """Return the repeats of a technique that gave no figure."""
        seen = {record.id for record, _ in seen_in(self.rows[technique], self.window)}
        return [record for record in self.rows[technique] if record.id not in seen]

    def seeds(self, technique: str) -> dict[int, int]:
        """Return the seed of each round of a technique."""
        return {record.trial.repeat: record.trial.seed for record in self.rows[technique]}


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One window on both sides.

    Attributes:
        stage, label: where it is, `label` with the window's coordinates.
        metrics: those whose figures are compared between the sides.
        concluded: those by which techniques are compared within a side.
    """

    stage: str
    label: str
    metrics: tuple[MetricEntry, ...]
    concluded: tuple[MetricEntry, ...]
    a: Part
    b: Part

    def ranked(self) -> bool:
        """Whether both were measured carefully enough to judge."""
        return is_ranked(self.a.group) and is_ranked(self.b.group)

    def both(self) -> list[str]:
        """Return the techniques with figures on both sides."""
        return [name for name in self.a.table if name in self.b.table]


def compared_metrics(window: str, wanted: Sequence[str], same_hardware: bool) -> tuple[MetricEntry, ...]:
    """Return the metrics that are compared in a window: those wanted, else one of a kind.

    Between machines time is the share of the device's limit that was attained, and a rate is none of its own.

    >>> [entry.column.key for entry in compared_metrics("decode", (), same_hardware=True)]
    ['memory_mean', 'latency_median', 'tokens_per_s', 'energy_per_token', 'bits_per_byte']
    >>> [entry.column.key for entry in compared_metrics("decode", (), same_hardware=False)]
    ['memory_mean', 'attained', 'energy_per_token', 'bits_per_byte']
    """
    if wanted:
        return tuple(e for e in applicable(window) if e.column.better and (e.column.key in wanted or "all" in wanted))
    heads = {entry.column.key for entry in headline(window) if entry.group not in _ON_REQUEST}
    if not same_hardware:
        heads = {key for key in heads if key not in _timed(window)} | {"attained"}
    return tuple(entry for entry in applicable(window) if entry.column.key in heads and entry.column.better)


def concluded_metrics(window: str, wanted: Sequence[str], same_hardware: bool) -> tuple[MetricEntry, ...]:
    """Return the metrics by which techniques are compared within a side: those wanted, else one of a kind.

    Between machines also the share of the limit, which tells how near each implementation comes to its machine's.

    >>> [entry.column.key for entry in concluded_metrics("decode", (), same_hardware=False)]
    ['memory_mean', 'attained', 'latency_median', 'energy_per_token', 'bits_per_byte']
    """
    found = compared_metrics(window, wanted, same_hardware=True)
    if wanted:
        return found
    keys = {entry.column.key for entry in found if entry.group != "throughput"}
    keys |= set() if same_hardware else {"attained"}
    return tuple(entry for entry in applicable(window) if entry.column.key in keys)


def _timed(window: str) -> list[str]:
    return [entry.column.key for entry in applicable(window) if entry.group in ("latency", "throughput")]


def shared_windows(
    pairs: Sequence[tuple[SideRow, SideRow]], wanted: Sequence[str], across: Sequence[str], same_hardware: bool
) -> tuple[list[Shared], list[Ended]]:
    """Return every window that both sides have, and those of one side alone.

    Args:
        pairs: rows that measured the same.
        wanted: keys of metrics, `all`, or none for one of each kind.
        across: what may differ; `window` for coordinates.
        same_hardware: whether both sides were measured on the same devices.
    """
    shared: list[Shared] = []
    alone: list[Ended] = []
    for place, group_a, group_b in _group_pairs(pairs):
        both, only_a, only_b = _point_pairs(points(group_a), points(group_b), may_differ(WINDOW, across))
        for point_a, point_b in both:
            metrics = compared_metrics(point_a[0], wanted, same_hardware)
            concluded = concluded_metrics(point_a[0], wanted, same_hardware)
            part_a, part_b = (_part(*part, (*metrics, *concluded)) for part in ((group_a, point_a), (group_b, point_b)))
            label = (
                part_a.window.label() if point_a == point_b else f"{part_a.window.label()} / {part_b.window.label()}"
            )
            shared.append(Shared(stage=place, label=label, metrics=metrics, concluded=concluded, a=part_a, b=part_b))
        alone += [one for point in only_a for one in _alone(place, group_a, point, "b")]
        alone += [one for point in only_b for one in _alone(place, group_b, point, "a")]
    return shared, alone


def ended(shared: Shared) -> list[Ended]:
    """Return the rows of a window that have figures on one side only, or lost repeats on the other."""
    a, b, found = shared.a, shared.b, []
    for name in dict.fromkeys([*a.rows, *b.rows]):
        row_a, row_b = ("ok" if name in part.table else part.failed(name).outcome for part in (a, b))
        place = {"stage": shared.stage, "window": shared.label, "technique": name}
        if row_a != row_b or row_a != "ok":
            reason = (b if row_a == "ok" else a).failed(name).reason
            gone = row_a == "ok"
            found.append(Ended(**place, outcome_a=row_a, outcome_b=row_b, reason=reason, regression=gone))
        elif (lost := b.lost(name)) and not a.lost(name):
            how = failed_row(lost, b.window)
            said = f"{how.outcome} in {len(lost)} of {len(b.rows[name])} repeats"
            found.append(Ended(**place, outcome_a="ok", outcome_b=said, reason=how.reason, regression=True))
    return found


def _part(group: Group, point: Point, metrics: Sequence[MetricEntry]) -> Part:
    window = Window(name=point[0], coordinates=dict(point[1]))
    rows = {records[0].trial.technique(): records for records in group.rows.values()}
    seen = {name: found for name, records in rows.items() if (found := seen_in(records, window))}
    judging = (entry for entry in headline(window.name) if entry.group == "quality")  # says whose quality is none
    table, floored = measured(group, seen, tuple({entry.column.key: entry for entry in (*metrics, *judging)}.values()))
    return Part(group=group, window=window, table=table, floored=floored, rows=rows)


def _group_pairs(pairs: Sequence[tuple[SideRow, SideRow]]) -> Iterator[tuple[str, Group, Group]]:
    """Yield stages with the groups of both sides, each cut down to the rows that both have.

    Studies and machines are kept apart where there are several; then they stand in the stage's name.
    """
    apart: dict[tuple[str, str], list[tuple[SideRow, SideRow]]] = {}
    for one, other in pairs:
        apart.setdefault((one.conditions.get("study", ""), one.conditions["machine"]), []).append((one, other))
    several = len({machine for _, machine in apart}) > 1
    for (study, machine), inside in apart.items():
        before, after = f"{study}/" if study else "", f" on {machine[:8]}" if several else ""
        for group_a, group_b in _of_one_study(inside):
            yield f"{before}{group_a.stage}{after}", group_a, group_b


def _of_one_study(pairs: Sequence[tuple[SideRow, SideRow]]) -> Iterator[tuple[Group, Group]]:
    partner = {record.id: number for number, (_, b) in enumerate(pairs) for record in b.records}
    number_of = {record.id: number for number, (a, _) in enumerate(pairs) for record in a.records}
    of_b = groups([record for _, b in pairs for record in b.records])
    for group_a in groups([record for a, _ in pairs for record in a.records]):
        numbers_a = {axes: number_of[records[0].id] for axes, records in group_a.rows.items()}
        for group_b in of_b:
            numbers_b = {axes: partner[records[0].id] for axes, records in group_b.rows.items()}
            common = set(numbers_a.values()) & set(numbers_b.values())
            if common:
                yield _cut(group_a, numbers_a, common), _cut(group_b, numbers_b, common)


def _cut(group: Group, numbers: dict[Axes, int], common: set[int]) -> Group:
    rows = {axes: records for axes, records in group.rows.items() if numbers[axes] in common}
    return Group(stage=group.stage, split=group.split, rows=rows)


def _point_pairs(
    a: Sequence[Point], b: Sequence[Point], free: bool
) -> tuple[list[tuple[Point, Point]], list[Point], list[Point]]:
    """Pair the windows of two groups; where coordinates may differ, those left over by name, in their order."""
    both = [(point, point) for point in a if point in b]
    only_a, only_b = [point for point in a if point not in b], [point for point in b if point not in a]
    for one in list(only_a) if free else ():
        other = next((point for point in only_b if point[0] == one[0]), None)
        if other is not None:
            both.append((one, other))
            only_a.remove(one)
            only_b.remove(other)
    return both, only_a, only_b


def _alone(place: str, group: Group, point: Point, missing: str) -> Iterator[Ended]:
    """Yield the rows of a window that the other side was never to measure."""
    window = Window(name=point[0], coordinates=dict(point[1]))
    for records in group.rows.values():
        if seen_in(records, window):
            outcomes = {"outcome_a": "ok", "outcome_b": "ok", f"outcome_{missing}": "missing"}
            yield Ended(
                stage=place, window=window.label(), technique=records[0].trial.technique(), **outcomes,
                reason="not asked for there", regression=missing == "b",
            )  # fmt: skip
