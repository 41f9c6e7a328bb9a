"""A reader's limits: `memory_peak<=24GiB`, or `bits_per_byte<=+1%` against the baseline; doubt is said, not decided.

A row is `out` when it is shown past its limit, `in` when it is shown within, and else `cannot tell`: it stays, marked.
A figure without an interval, from one or two repeats, is taken at its word, which is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from efficientllm.analysis.asked import check_metric
from efficientllm.analysis.catalogue import entries, headline
from efficientllm.analysis.metrics._contract import GROUPS, MetricEntry
from efficientllm.analysis.table import Cell
from efficientllm.errors import UserError
from efficientllm.stats.limit import non_inferiority
from efficientllm.stats.paired import FEWEST_ROUNDS
from efficientllm.units import parse_quantity, quantity_text

_FORM = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=|<|>)\s*(.+)")
_EXAMPLE = "Write METRIC<=VALUE, as in memory_peak<=24GiB, latency<=30ms, or bits_per_byte<=+1% of the baseline's."


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit.

    Attributes:
        text: as it was written.
        metric: key, or kind.
        better: `low` where the figure may be at most so large, `high` where it must be at least so.
        value: what was written behind the sign.
        relative: ratio that the figure may lie beyond the baseline's, None for an absolute limit.
    """

    text: str
    metric: str
    better: str
    value: str
    relative: float | None = None

    def entry(self, window: str) -> MetricEntry | None:
        """Return the metric that is meant in a window, None where it has none."""
        if self.metric in GROUPS:
            return next((entry for entry in headline(window) if entry.group == self.metric), None)
        return next((e for e in entries() if e.column.key == self.metric and e.applies(window)), None)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a row keeps a limit.

    Attributes:
        limit: as it was written.
        verdict: `in`, `out` or `cannot tell`.
        why: a clause for a reader.
    """

    limit: str
    verdict: str
    why: str


def limit_of(text: str) -> Limit:
    """Read a limit.

    Raises:
        UserError: it has another form, an unknown metric or unit, or allows the opposite of a drop.

    >>> limit_of("memory_peak <= 24GiB").metric, limit_of("bits_per_byte<=+1%").relative
    ('memory_peak', 0.01)
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise UserError(f"--where: {text!r} is no limit. {_EXAMPLE}")
    metric, sign, value = form.groups()
    check_metric(metric)
    better = "low" if sign.startswith("<") else "high"
    relative = _relative(text, value, better)
    if relative is None:
        for unit in _units(metric):
            _parsed(text, value, unit)
    return Limit(text=text.strip(), metric=metric, better=better, value=value, relative=relative)


def kept(limit: Limit, window: str, cell: Cell, baseline: Cell | None) -> Kept:
    """Judge whether a row keeps a limit.

    Args:
        limit: the limit.
        window: in which the row stands.
        cell: the row's figure of the limit's metric.
        baseline: the baseline's figure, for a relative limit.

    >>> slow = Cell(value=0.04, values={0: 0.04, 1: 0.041, 2: 0.039})
    >>> kept(limit_of("latency_median<=30ms"), "decode", slow, None).verdict
    'out'
    """
    entry = limit.entry(window)
    if entry is None or cell.value is None:
        return Kept(limit=limit.text, verdict="cannot tell", why=cell.absent or f"{limit.metric} is no metric here")
    if limit.relative is not None:
        bounds = dict(baseline.values) if baseline is not None else {}
    else:
        value = _parsed(limit.text, limit.value, entry.column.unit)
        bounds = dict.fromkeys(cell.values, value)
    common = sorted(bounds.keys() & cell.values.keys())
    if not common:
        return Kept(limit=limit.text, verdict="cannot tell", why="no round in common with a baseline")
    figure = quantity_text(cell.value, entry.column.unit)
    if len(common) < FEWEST_ROUNDS:
        return _by_estimate(limit, cell.values, bounds, common, figure)
    judged = non_inferiority(cell.values, bounds, limit.better, limit.relative or 0.0)
    verdict = {"holds": "in", "fails": "out"}.get(judged.verdict, judged.verdict)
    return Kept(limit=limit.text, verdict=verdict, why=f"{figure}, {len(common)} repeats")


def _by_estimate(
    limit: Limit, values: Mapping[int, float], bounds: Mapping[int, float], common: list[int], figure: str
) -> Kept:
    """Judge by the estimates alone: no interval below three repeats."""
    factor = 1 + (limit.relative or 0.0) if limit.better == "low" else 1 - (limit.relative or 0.0)
    excess = [values[r] - bounds[r] * factor for r in common]
    within = sum(excess) <= 0 if limit.better == "low" else sum(excess) >= 0
    why = f"{figure}, by its estimate alone: n={len(common)}"
    return Kept(limit=limit.text, verdict="in" if within else "out", why=why)


def _relative(text: str, value: str, better: str) -> float | None:
    """Return the ratio that a limit like `+1%` allows, None for an absolute one."""
    form = re.fullmatch(r"([+-])\s*(\d+\.?\d*)\s*%", value.strip())
    if form is None:
        return None
    sign, number = form.groups()
    ratio = float(number) / 100
    if (sign == "+") != (better == "low") or ratio >= 1:
        raise UserError(
            f"--where: {text!r} is no limit against the baseline. At most so much more is METRIC<=+1%, "
            "at most so much less is METRIC>=-1%, each below 100 %."
        )
    return ratio


def _units(metric: str) -> list[str]:
    return list(dict.fromkeys(e.column.unit for e in entries() if metric in (e.column.key, e.group) and
                              (e.column.key == metric or e.headline)))  # fmt: skip


def _parsed(text: str, value: str, unit: str) -> float:
    try:
        return parse_quantity(value, unit)
    except ValueError as error:
        raise UserError(f"--where {text!r}: {error}. {_EXAMPLE}") from None
