"""Fronts: of the metrics that are asked for, who is beaten by none, who is beaten by whom, and by what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from efficientllm.analysis.asked import Asked, chosen_metrics, shown_points
from efficientllm.analysis.group import Group
from efficientllm.analysis.limits import Kept, Limit, kept
from efficientllm.analysis.metrics._contract import MetricEntry
from efficientllm.analysis.missing import missing_rows
from efficientllm.analysis.pareto import Axis, front
from efficientllm.analysis.pool import Pool
from efficientllm.analysis.ranking import NEVER_SHOWN, not_ranked_text
from efficientllm.analysis.section import Judged, judged_section
from efficientllm.analysis.table import Cell, Column, Row
from efficientllm.errors import UserError
from efficientllm.stats.compare import equivalence, paired
from efficientllm.stats.front import probability_front
from efficientllm.stats.joint import joint

_ALPHA = 0.05


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """How one row stands to another in one metric.

    Attributes:
        metric: its key.
        word: `better`, `worse`, `equivalent` or `unresolved`, of the one that beats.
        ratio, low, high: its value over the other's, paired by round, with the 95 % interval where there is one.
        n: rounds in common.
    """

    metric: str
    word: str
    ratio: float | None
    low: float | None
    high: float | None
    n: int


class Beating(msgspec.Struct, frozen=True, kw_only=True):
    """By whom a row is beaten, and by what: one gain a metric."""

    by: str
    gains: tuple[Gain, ...]


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a front.

    Attributes:
        row: figures by metric, or how it ended.
        studies: whose records it is made of.
        state: `front`, `beaten`, `out` (past a limit), `no figure` (in one of the metrics) or `failed`.
        probability: of being on the front, among the rows that no limit puts out; None where it cannot be told.
        beatings: who beats it, the most superior first, at most three.
        limits: whether it keeps each limit.
    """

    row: Row
    studies: tuple[str, ...] = ()
    state: str = "failed"
    probability: float | None = None
    beatings: tuple[Beating, ...] = ()
    limits: tuple[Kept, ...] = ()


class Front(msgspec.Struct, frozen=True, kw_only=True):
    """The front of one window of one group.

    Attributes:
        stage, window, columns, conditions, studies, apart: as in `ranking.Ranking`.
        rows: on the front first, then beaten, out, without a figure, failed.
        front_of: the metrics that it is made of: those asked for of which two rows at least have figures.
        too_few: those asked for of which fewer have.
        uncertain: why there are no probabilities, or empty.
        floored: row -> why its quality does not count.
    """

    stage: str
    window: str
    columns: tuple[Column, ...]
    rows: tuple[Placed, ...]
    conditions: dict[str, str] = {}
    studies: tuple[str, ...] = ()
    front_of: tuple[str, ...] = ()
    too_few: tuple[str, ...] = ()
    uncertain: str = ""
    floored: dict[str, str] = {}
    apart: str = ""


class Fronts(msgspec.Struct, frozen=True, kw_only=True):
    """All fronts that were asked for; the rest as in `ranking.Rankings`."""

    fronts: tuple[Front, ...]
    not_ranked: tuple[str, ...] = ()
    not_shown: int = 0
    more: int = 0
    left_out: tuple[str, ...] = ()


_ORDER = ("front", "beaten", "out", "no figure", "failed")


def fronts(pool: Pool, asked: Asked, limits: Sequence[Limit] = ()) -> Fronts:
    """Make the front of each group and window.

    Args:
        pool: records of one study or of several.
        asked: which metrics (two at least), stages, windows and rows.
        limits: what a row must keep.

    Raises:
        UserError: something asked for is not there, may not be compared, or is fewer than two metrics.

    >>> from efficientllm.analysis.examples import example_study
    >>> asked = Asked(stage="pretrain", metrics=("latency_median", "memory_mean"))
    >>> [(one.row.technique, one.state) for one in fronts(Pool({"s": example_study()}), asked).fronts[0].rows]
    [('mqa', 'front'), ('mla', 'front'), ('gqa', 'beaten'), ('mha', 'beaten')]
    """
    if len(asked.metrics) < 2:
        raise UserError("--metrics: a front needs two metrics at least, as in latency,memory.")
    groups = pool.groups(asked)
    shown = shown_points(groups, asked)
    made, not_ranked, said = [], dict[str, None](), set[int]()
    for group, point in shown.points:
        metrics = chosen_metrics(point[0], asked)
        if len(metrics) < 2:
            continue
        limiting = [entry for limit in limits if (entry := limit.entry(point[0])) is not None]
        found = judged_section(
            pool.filled(group), point, (*metrics, *(entry for entry in limiting if entry not in metrics))
        )
        if not found.ranked:
            not_ranked[not_ranked_text(found)] = None
            continue
        made.append(
            replace(
                _front(pool, group, found, metrics, limits),
                apart="" if id(group) in said else pool.apart(groups, group),
            )
        )
        said.add(id(group))
    return Fronts(
        fronts=tuple(made),
        not_ranked=tuple(not_ranked),
        not_shown=shown.in_grids,
        more=shown.more,
        left_out=pool.left_out,
    )


def _front(pool: Pool, group: Group, found: Judged, metrics: Sequence[MetricEntry], limits: Sequence[Limit]) -> Front:
    section = found.section
    fit = {entry.column.key: found.fit(entry.column.key) for entry in metrics}
    counted = [entry for entry in metrics if len(fit[entry.column.key]) > 1]
    keys = [entry.column.key for entry in counted]
    checked = {row.technique: _checked(found, row, limits) for row in section.rows if row.cells}
    out = {name for name, of in checked.items() if any(limit.verdict == "out" for limit in of)}
    rows = {name: {key: fit[key][name] for key in keys} for name in checked
            if len(keys) > 1 and name not in out and all(name in fit[key] for key in keys)}  # fmt: skip
    axes = [Axis(entry.column.key, entry.column.better, entry.margin) for entry in counted]
    beaten = front(rows, axes)
    drawn = joint({key: {name: rows[name][key].values for name in rows} for key in keys})
    shares = {} if isinstance(drawn, str) else probability_front(drawn, {axis.key: axis.better for axis in axes})
    placed = [
        Placed(
            row=replace(row, on_front=name in beaten and not beaten[name], beaten_by=beaten.get(name, ())),
            studies=pool.studies_of(row.measurements),
            state=_state(row, name in out, beaten.get(name)),
            probability=shares.get(name),
            beatings=tuple(Beating(by=by, gains=_gains(rows[by], rows[name], axes)) for by in beaten.get(name, ())),
            limits=checked.get(name, ()),
        )
        for row in (*section.rows, *missing_rows(group, pool.every, pool.stages))
        if row.outcome not in NEVER_SHOWN
        for name in [row.technique]
    ]
    return Front(
        stage=section.stage,
        window=section.window,
        columns=section.columns,
        rows=tuple(sorted(placed, key=lambda one: (_ORDER.index(one.state), -(one.probability or 0.0)))),
        conditions=section.conditions,
        studies=pool.studies_of(record.id for record in group.records()),
        front_of=tuple(keys) if len(keys) > 1 else (),
        too_few=tuple(entry.column.key for entry in metrics if entry not in counted),
        uncertain=drawn if isinstance(drawn, str) else "",
        floored=found.floored,
    )


def _checked(found: Judged, row: Row, limits: Sequence[Limit]) -> tuple[Kept, ...]:
    """Return whether a row keeps each limit; quality at its floor keeps none, whatever it is held against."""
    kind = found.section.window.partition(" ")[0]
    baseline = next((one for one in found.section.rows if one.baseline and one.cells), None)
    checked = []
    for limit in limits:
        entry = limit.entry(kind)
        key = entry.column.key if entry is not None else limit.metric
        base = baseline.cells.get(key) if baseline is not None else None
        told = kept(limit, kind, row.cells.get(key, Cell()), base)
        if row is baseline and limit.relative is not None:
            told = replace(told, verdict="in", why="the baseline itself")
        why = found.floored.get(row.technique, "") if entry is not None and entry.group == "quality" else ""
        checked.append(replace(told, verdict="cannot tell", why=why) if why and told.verdict == "in" else told)
    return tuple(checked)


def _state(row: Row, out: bool, beaten_by: tuple[str, ...] | None) -> str:
    if not row.cells:
        return "failed"
    if out:
        return "out"
    if beaten_by is None:
        return "no figure"
    return "beaten" if beaten_by else "front"


def _gains(one: Mapping[str, Cell], other: Mapping[str, Cell], axes: Sequence[Axis]) -> tuple[Gain, ...]:
    """Return how one row stands to another in each metric, pair by pair: not corrected for the other pairs."""
    return tuple(_gain(one[axis.key], other[axis.key], axis) for axis in axes)


def _gain(one: Cell, other: Cell, axis: Axis) -> Gain:
    told = paired(one.values, other.values, axis.better)
    same = equivalence(told, axis.margin)
    word = "unresolved"
    if same is not None and same < _ALPHA / 2:
        word = "equivalent"
    elif told.p_value is not None and told.p_value < _ALPHA and told.shift != 0:
        word = "better" if told.improves else "worse"
    return Gain(metric=axis.key, word=word, ratio=told.ratio, low=told.low, high=told.high, n=told.n)
