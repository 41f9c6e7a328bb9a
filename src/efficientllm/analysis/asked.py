"""What a reader asks of a ranking: stages, windows, metrics, rows and weights, checked against what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from efficientllm.analysis.catalogue import entries, headline
from efficientllm.analysis.grid import apart, gridded
from efficientllm.analysis.group import Group, Point, points
from efficientllm.analysis.metrics._contract import GROUPS, MetricEntry
from efficientllm.analysis.rows import seen_in
from efficientllm.analysis.table import Cell, Row, Section
from efficientllm.analysis.words import where
from efficientllm.errors import UnknownNameError, UserError
from efficientllm.records.window import Window


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a ranking.

    Attributes:
        metrics: keys (`latency_p95`) or kinds (`latency`, that which heads a window's table); none: one of each kind.
        stage: only this one; empty for all.
        window: only these: a kind (`decode`) or a point (`decode batch=1 tokens=8192`); empty for all.
        weights: key or kind -> weight in the score; empty: all alike. What is not named does not count then.
        rows: only these techniques, which must meet in a group.
        every_point: whether all points of a grid are ranked, not only the smallest and the largest.
        at_most: so many tables, as many of each stage as of the others; 0 for all.
    """

    metrics: tuple[str, ...] = ()
    stage: str = ""
    window: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    every_point: bool = False
    at_most: int = 0

    def __post_init__(self) -> None:
        """Check the names of metrics and the weights.

        Raises:
            UserError: an unknown metric, one without a better side, or a weight that is none.
        """
        for name in (*self.metrics, *self.weights):
            check_metric(name)
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise UserError(f"--weights: {name}={weight:g}. Give weights from 0 upward, as in memory=2,energy=1.")
        if self.weights and not any(self.weights.values()):
            raise UserError("--weights: all are 0. Give one above 0, as in memory=2,energy=1.")

    def weight(self, entry: MetricEntry) -> float:
        """Return a metric's weight in the score; its own name goes before that of its kind."""
        if not self.weights:
            return 1.0
        return self.weights.get(entry.column.key, self.weights.get(entry.group, 0.0))


def check_metric(name: str) -> None:
    """Refuse a name that is neither a metric with a better side nor a kind of them.

    Raises:
        UserError: with the nearest name.

    >>> check_metric("latency")
    >>> check_metric("latency_medain")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    efficientllm.errors.UnknownNameError: unknown metric 'latency_medain'. Did you mean 'latency_median'? Known: ...
    """
    entry = next((entry for entry in entries() if entry.column.key == name), None)
    rankable = [entry.column.key for entry in entries() if entry.column.better]
    if entry is None and name not in GROUPS:
        raise UnknownNameError("metric", name, [*GROUPS, *rankable])
    if entry is not None and not entry.column.better:
        raise UserError(f"metric {name} has no better side: it is stated, not ranked. Others: {', '.join(rankable)}.")


def chosen_metrics(window: str, asked: Asked) -> tuple[MetricEntry, ...]:
    """Return the metrics that a window of this kind is ranked by; none where it has none of those asked for."""
    heads = [entry for entry in headline(window) if entry.column.better]
    names = asked.metrics
    if not names and not asked.weights:
        return tuple(heads)
    wanted = set(names or (entry.column.key for entry in heads)) | set(asked.weights)
    return tuple(
        entry
        for entry in entries()
        if entry.applies(window) and (entry.column.key in wanted or (entry.group in wanted and entry in heads))
    )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Which windows are looked at.

    Attributes:
        points: the windows.
        in_grids: how many points of grids are not among them.
        more: how many others are not, since they would be too many.
    """

    points: list[tuple[Group, Point]]
    in_grids: int = 0
    more: int = 0


def shown_points(groups: Sequence[Group], asked: Asked) -> Shown:
    """Return the windows to rank.

    Raises:
        UserError: no window is of the kind asked for, or has any of the metrics.
    """
    found = [(group, point) for group in groups for point in points(group)]
    matching = [one for one in found if _matches(one[1], asked.window)]
    if not matching and asked.window:
        known = list(dict.fromkeys(word for _, point in found for word in (point[0], _label(point))))
        raise UnknownNameError("window", asked.window, known)
    told = [one for one in matching if chosen_metrics(one[1][0], asked)]
    if matching and not told:
        kinds = ", ".join(dict.fromkeys(point[0] for _, point in matching))
        raise UserError(f"no window here has {', '.join(asked.metrics)}; there are {kinds}.")
    kept = told if asked.every_point or asked.window else _ends(told)
    few = _fewer(kept, asked.at_most) if 0 < asked.at_most < len(kept) else kept
    return Shown(points=few, in_grids=len(told) - len(kept), more=len(kept) - len(few))


def _fewer(found: Sequence[tuple[Group, Point]], at_most: int) -> list[tuple[Group, Point]]:
    """Return so many of the windows, in their order: the first of each stage, then the second, and so on."""
    places: dict[str, int] = {}
    turns = []
    for index, (group, _) in enumerate(found):
        places[group.stage] = places.get(group.stage, -1) + 1
        turns.append((places[group.stage], index))
    return [found[index] for index in sorted(index for _, index in sorted(turns)[:at_most])]


def _ends(found: Sequence[tuple[Group, Point]]) -> list[tuple[Group, Point]]:
    """Return windows without those between the smallest and the largest point of a grid, as `show` does."""
    marked = gridded([_bare(group, point) for group, point in found])
    shown = apart(marked)
    return [one for one, section in zip(found, marked, strict=True) if any(section is other for other in shown)]


def _bare(group: Group, point: Point) -> Section:
    """Return a section that says no more than where it is and which rows have figures in it."""
    window = Window(name=point[0], coordinates=dict(point[1]))
    rows = tuple(
        Row(technique="", baseline=records[0].trial.baseline, cells={"": Cell()} if seen_in(records, window) else {})
        for records in group.rows.values()
    )
    return Section(
        stage=group.stage, window=window.label(), columns=(), rows=rows, conditions={"group": str(id(group))}
    )


def _matches(point: Point, wanted: str) -> bool:
    """Return whether a window is of the kind, or at the point, that was asked for, in either of its spellings.

    >>> point = ("decode", (("batch", 1), ("tokens", 8192)))
    >>> [_matches(point, text) for text in ("decode", "decode batch=1", "tokens=8192", "decode, batch 1", "prefill")]
    [True, True, True, True, False]
    """
    words = set(wanted.replace(",", " ").split())
    said = {point[0], *(f"{key}={value}" for key, value in point[1])}
    spoken = set(where("", _label(point)).replace(",", " ").split())
    return words <= said or words <= spoken


def _label(point: Point) -> str:
    return Window(name=point[0], coordinates=dict(point[1])).label()
