"""Rankings: the rows of each group that may be compared, by each metric and over all, with how sure each place is.

One row a technique. Ranks come from paired tests, Holm-corrected over a table's pairs; probabilities and the score's
interval from draws of what the true figures may be. Nothing measured by the smoke protocol, no quality at its floor
and nothing invalid is ranked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from efficientllm.analysis.asked import Asked, chosen_metrics, shown_points
from efficientllm.analysis.group import Group, Point
from efficientllm.analysis.metrics._contract import MetricEntry
from efficientllm.analysis.missing import missing_rows
from efficientllm.analysis.pareto import axes_of, front
from efficientllm.analysis.pool import Pool
from efficientllm.analysis.section import PARETO, Judged, judged_section
from efficientllm.analysis.table import Cell, Column, Row
from efficientllm.stats.best import share_best
from efficientllm.stats.front import probability_front
from efficientllm.stats.joint import Joint, joint
from efficientllm.stats.score import Score, scores

#: A row that gave figures no check lets pass is none; what stays out is said among what is left out.
NEVER_SHOWN = ("invalid",)


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a ranking.

    Attributes:
        row: as in `show`: figures, verdicts and ranks by metric; or how it ended, and why.
        studies: whose records it is made of.
        best: metric -> probability of being best in it.
        score, parts: the overall figure from 0.1 to 1, and what each metric gave; None where it has none.
        score_low, score_high, score_first: 95 % of the score's draws, and in what share it is the highest.
        score_rank, score_tied: 1 + rows whose score is shown higher.
        front: probability of being on the front, None where that cannot be told.
        bound_with: rows whose order to this one would flip if both attained the same share of the hardware's limit.
    """

    row: Row
    studies: tuple[str, ...] = ()
    best: dict[str, float] = {}
    score: float | None = None
    parts: dict[str, float] = {}
    score_low: float | None = None
    score_high: float | None = None
    score_first: float | None = None
    score_rank: int | None = None
    score_tied: bool = False
    front: float | None = None
    bound_with: tuple[str, ...] = ()


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """One window of one group, ranked.

    Attributes:
        stage, window, columns, conditions: as in a table's section.
        rows: best score first; what gave no figure last.
        studies: whose records it is made of.
        weights: metric -> weight, of those that make the score.
        left_score: metric -> why it has left the score.
        front_of: the metrics that the front is made of.
        uncertain: why there are no probabilities, or empty.
        floored: row -> why its quality is not ranked.
        apart: what keeps it from being compared with the group before it.
    """

    stage: str
    window: str
    columns: tuple[Column, ...]
    rows: tuple[Ranked, ...]
    conditions: dict[str, str] = {}
    studies: tuple[str, ...] = ()
    weights: dict[str, float] = {}
    left_score: dict[str, str] = {}
    front_of: tuple[str, ...] = ()
    uncertain: str = ""
    floored: dict[str, str] = {}
    apart: str = ""


class Rankings(msgspec.Struct, frozen=True, kw_only=True):
    """All rankings that were asked for.

    Attributes:
        rankings: in the order of the stages.
        not_ranked: what was measured and may not be ranked, with the reason.
        not_shown: points of grids that are not among the rankings.
        more: further rankings that were passed over, since fewer were asked for.
        left_out: records that do not count, each with its reason.
    """

    rankings: tuple[Ranking, ...]
    not_ranked: tuple[str, ...] = ()
    not_shown: int = 0
    more: int = 0
    left_out: tuple[str, ...] = ()


def rankings(pool: Pool, asked: Asked) -> Rankings:
    """Rank what a pool of records holds.

    Args:
        pool: records of one study or of several.
        asked: which stages, windows, metrics and rows, and by which weights.

    Raises:
        UserError: something asked for is not there, or may not be compared.

    >>> from efficientllm.analysis.examples import example_study
    >>> found = rankings(Pool({"s": example_study()}), Asked(stage="pretrain", metrics=("latency_median",)))
    >>> [(one.row.technique, one.row.cells["latency_median"].rank) for one in found.rankings[0].rows]
    [('mqa', 1), ('gqa', 2), ('mha', 2), ('mla', 4)]
    """
    groups = pool.groups(asked)
    shown = shown_points(groups, asked)
    made, not_ranked = [], dict[str, None]()
    said: set[int] = set()
    for group, point in shown.points:
        metrics = chosen_metrics(point[0], asked)
        found = judged_section(pool.filled(group), point, metrics)
        if not found.ranked:
            not_ranked[not_ranked_text(found)] = None
            continue
        ranking = _ranking(pool, group, point, found, asked)
        made.append(replace(ranking, apart="" if id(group) in said else pool.apart(groups, group)))
        said.add(id(group))
    return Rankings(
        rankings=tuple(made),
        not_ranked=tuple(not_ranked),
        not_shown=shown.in_grids,
        more=shown.more,
        left_out=pool.left_out,
    )


def not_ranked_text(found: Judged) -> str:
    """Say what was measured with a protocol too short to rank."""
    section = found.section
    protocol = section.conditions["protocol"]
    rows = "1 row" if len(section.rows) == 1 else f"{len(section.rows)} rows"
    return f"{section.stage}: {rows} measured with protocol {protocol}, which shows coverage and is too short to rank"


def _ranking(pool: Pool, group: Group, point: Point, found: Judged, asked: Asked) -> Ranking:
    section = found.section
    fit = {entry.column.key: found.fit(entry.column.key) for entry in found.metrics}
    draws = _Draws(fit)
    told, weights, left = _scored(found, fit, asked, draws)
    axes, on_front, uncertain = _front(found, fit, asked, draws)
    best = _best(fit, found.metrics, draws)
    rows = [
        _ranked(pool, row, told, on_front, best, found)
        for row in (*section.rows, *missing_rows(group, pool.every, pool.stages))
        if row.outcome not in NEVER_SHOWN
    ]
    return Ranking(
        stage=section.stage,
        window=section.window,
        columns=section.columns,
        rows=tuple(sorted(rows, key=_place)),
        conditions=section.conditions,
        studies=pool.studies_of(record.id for record in group.records()),
        weights=weights,
        left_score=left,
        front_of=tuple(axes),
        uncertain=uncertain,
        floored=found.floored,
    )


class _Draws:
    """Draws of some metrics and rows, made once for the same of both."""

    def __init__(self, fit: Mapping[str, Mapping[str, Cell]]) -> None:
        self._fit = fit
        self._made: dict[tuple[tuple[str, ...], tuple[str, ...]], Joint | str] = {}

    def of(self, keys: Iterable[str], names: Iterable[str]) -> Joint | str:
        """Return draws, or why there are none; a subset of metrics is taken from draws that hold it."""
        wanted = (tuple(keys), tuple(names))
        for (metrics, rows), made in self._made.items():
            if rows == wanted[1] and isinstance(made, Joint) and set(wanted[0]) <= set(metrics):
                return made.of(wanted[0])
        table = {key: {name: self._fit[key][name].values for name in wanted[1]} for key in wanted[0]}
        return self._made.setdefault(wanted, joint(table))


def _scored(
    found: Judged, fit: Mapping[str, Mapping[str, Cell]], asked: Asked, draws: _Draws
) -> tuple[dict[str, Score], dict[str, float], dict[str, str]]:
    """Return each row's score, the weights, and the metrics that have left it with the reason."""
    names = [row.technique for row in found.section.rows if row.cells]
    wanted = {entry.column.key: asked.weight(entry) for entry in found.metrics if asked.weight(entry) > 0}
    left = {key: why for key in wanted if (why := _why_left(found, key, fit[key], names))}
    weights = {key: weight for key, weight in wanted.items() if key not in left}
    if len(names) < 2 or not weights:
        return {}, weights, left
    estimates = {key: {name: fit[key][name].value or 0.0 for name in names} for key in weights}
    drawn = draws.of(weights, names)
    return scores(estimates, _better(found), weights, drawn if isinstance(drawn, Joint) else None), weights, left


def _why_left(found: Judged, key: str, cells: Mapping[str, Cell], names: Sequence[str]) -> str:
    """Return why a metric cannot be part of the score: a row has none of it, or all have the same."""
    lacking = [name for name in names if name not in cells]
    if lacking:
        row = next(row for row in found.section.rows if row.technique == lacking[0])
        why = found.floored.get(lacking[0]) or row.cells[key].absent or "at_floor"
        of = "every row" if len(lacking) == len(names) else ", ".join(lacking[:3])
        return f"absent for {of}: {why}"
    return "the same in every row" if len({cell.value for cell in cells.values()}) == 1 else ""


def _front(
    found: Judged, fit: Mapping[str, Mapping[str, Cell]], asked: Asked, draws: _Draws
) -> tuple[list[str], dict[str, tuple[tuple[str, ...], float | None]], str]:
    """Return the metrics of the front, each row's betters and its probability, and why there is none."""
    keys = [entry.column.key for entry in found.metrics] if asked.metrics else list(PARETO)
    rows = {row.technique: {key: fit[key][row.technique] for key in fit if row.technique in fit[key]}
            for row in found.section.rows}  # fmt: skip
    keys = [key for key in keys if len(fit.get(key, ())) > 1]  # one row alone beats nobody in it, and keeps others out
    margins = {entry.column.key: entry.margin for entry in found.metrics}
    axes = axes_of([entry.column for entry in found.metrics], margins, rows, keys)
    if len(axes) < 2 or len(rows) < 2:
        return [], {}, "no front: it needs two metrics and two rows"
    beaten = front(rows, axes)
    drawn = draws.of([axis.key for axis in axes], beaten)
    if isinstance(drawn, str):
        return [axis.key for axis in axes], {name: (by, None) for name, by in beaten.items()}, drawn
    shares = probability_front(drawn, _better(found))
    return [axis.key for axis in axes], {name: (by, shares[name]) for name, by in beaten.items()}, ""


def _best(
    fit: Mapping[str, Mapping[str, Cell]], metrics: Sequence[MetricEntry], draws: _Draws
) -> dict[str, dict[str, float]]:
    """Return by metric each row's probability of being best, where it can be told."""
    found = {}
    for entry in metrics:
        drawn = draws.of([entry.column.key], fit[entry.column.key])
        found[entry.column.key] = {} if isinstance(drawn, str) else share_best(drawn, entry.column.better)
    return found


def _better(found: Judged) -> dict[str, str]:
    return {entry.column.key: entry.column.better for entry in found.metrics}


def _ranked(
    pool: Pool,
    row: Row,
    told: Mapping[str, Score],
    on_front: Mapping[str, tuple[tuple[str, ...], float | None]],
    best: Mapping[str, Mapping[str, float]],
    found: Judged,
) -> Ranked:
    name = row.technique
    score = told.get(name)
    beaten_by, share = on_front.get(name, ((), None))
    pairs = [pair for pair in found.bound if name in pair]
    return Ranked(
        row=replace(row, on_front=not beaten_by if name in on_front else None, beaten_by=beaten_by),
        studies=pool.studies_of(row.measurements),
        best={key: shares[name] for key, shares in best.items() if name in shares},
        score=score.value if score else None,
        parts=score.parts if score else {},
        score_low=score.low if score else None,
        score_high=score.high if score else None,
        score_first=score.first if score else None,
        score_rank=score.rank if score else None,
        score_tied=score.tied if score else False,
        front=share,
        bound_with=tuple(two if one == name else one for one, two in pairs),
    )


def _place(ranked: Ranked) -> tuple[bool, float, float]:
    """Return what sorts rows: those with figures first, by score, then by the mean of their ranks."""
    ranks = [cell.rank for cell in ranked.row.cells.values() if cell.rank]
    return (not ranked.row.cells, -(ranked.score or 0.0), sum(ranks) / len(ranks) if ranks else 99.0)
