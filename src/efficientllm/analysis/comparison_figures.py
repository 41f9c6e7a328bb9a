"""The figures of two sides against each other: difference, interval, verdict, and whether a limit is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.analysis.comparison import Difference
from efficientllm.analysis.comparison_rows import Shared
from efficientllm.analysis.metrics._contract import MetricEntry
from efficientllm.analysis.table import Cell
from efficientllm.stats.compare import Verdict, judged
from efficientllm.stats.holm import holm
from efficientllm.stats.limit import kept_or_broken
from efficientllm.stats.paired import Comparison, paired
from efficientllm.stats.unpaired import unpaired

#: Of a limit: the chance that any figure of the whole comparison is wrongly said to break it.
_ALPHA = 0.05
_SMOKE = "the protocol is too short to judge by"


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One figure on both sides, before anything is corrected for the number of figures."""

    shared: Shared
    entry: MetricEntry
    technique: str
    a: Cell
    b: Cell
    by_round: bool
    found: Comparison


@dataclass(frozen=True, kw_only=True)
class How:
    """In what the sides differ besides what is compared.

    Attributes:
        same_hardware: whether rounds pair: same seeds on the same devices.
        other_text: whether quality was judged on other text, so that its figures do not compare.
        other_work: whether both the devices and the work differ, so that only shares of a limit compare.
    """

    same_hardware: bool
    other_text: bool = False
    other_work: bool = False


def differences(
    windows: Sequence[Shared], how: How, fail_over: float | None
) -> tuple[tuple[Difference, ...], dict[str, tuple[str, ...]]]:
    """Return every figure that both sides have, judged, and by metric and reason where one has none.

    Args:
        windows: what both sides measured.
        how: in what the sides differ.
        fail_over: largest ratio by which b may be worse, None for no limit.
    """
    pairs: list[_Pair] = []
    without: dict[str, list[str]] = {}
    for shared in windows:
        for name in shared.both():
            for entry in shared.metrics:
                made = _pair(shared, entry, name, how)
                if isinstance(made, _Pair):
                    pairs.append(made)
                elif made:
                    without.setdefault(f"{entry.column.key}: {made}", []).append(f"{shared.stage} {name}")
    tested = {number: pair.found for number, pair in enumerate(pairs) if pair.shared.ranked()}
    verdicts = judged(tested, {number: pairs[number].entry.margin for number in tested}, alpha=_ALPHA)
    limits = _limits(pairs, tested, fail_over)
    told = tuple(_told(pair, verdicts.get(number), limits.get(number, "")) for number, pair in enumerate(pairs))
    return told, {reason: tuple(dict.fromkeys(rows)) for reason, rows in without.items()}


def _pair(shared: Shared, entry: MetricEntry, name: str, how: How) -> _Pair | str:
    """Return a figure on both sides, or why it is not compared; empty where neither has it."""
    key, better = entry.column.key, entry.column.better
    a, b = shared.a.table[name][key], shared.b.table[name][key]
    if a.value is None or b.value is None:
        both = a.value is None and b.value is None
        reason = a.absent if a.value is None else b.absent
        return reason if both else f"{reason} (in {'a' if a.value is None else 'b'} alone)"
    if how.other_work and entry.column.unit != "ratio":
        return "other work on another device: only shares of a limit compare (and conclusions, below)"
    if entry.group == "quality":
        if how.other_text:
            return "judged on another text on each side"
        if name in shared.a.floored and name in shared.b.floored:
            return shared.b.floored[name]
    seeds = (shared.a.seeds(name), shared.b.seeds(name))
    common = a.values.keys() & b.values.keys()
    by_round = how.same_hardware and bool(common) and all(seeds[0][r] == seeds[1][r] for r in common)
    found = paired(b.values, a.values, better) if by_round else unpaired(
        list(b.values.values()), list(a.values.values()), better
    )  # fmt: skip
    return _Pair(shared=shared, entry=entry, technique=name, a=a, b=b, by_round=by_round, found=found)


def _limits(pairs: Sequence[_Pair], tested: dict[int, Comparison], limit: float | None) -> dict[int, str]:
    """Return whether each figure keeps the limit, Holm-corrected over all of them."""
    if limit is None:
        return {}
    both = {number: kept_or_broken(found, pairs[number].entry.column.better, limit) for number, found in tested.items()}
    kept = holm({number: p[0] for number, p in both.items()})
    broken = holm({number: p[1] for number, p in both.items()})
    return {number: _word(kept[number], broken[number]) for number in tested}


def _word(kept: float | None, broken: float | None) -> str:
    if broken is not None and broken < _ALPHA:
        return "fails"
    return "holds" if kept is not None and kept < _ALPHA else "cannot tell"


def _told(pair: _Pair, verdict: Verdict | None, limit: str) -> Difference:
    found = pair.found
    assert pair.a.value is not None and pair.b.value is not None  # a pair has both
    return Difference(
        stage=pair.shared.stage,
        window=pair.shared.label,
        technique=pair.technique,
        column=pair.entry.column_for(pair.shared.a.window.name),
        a=pair.a.value,
        b=pair.b.value,
        n_a=len(pair.a.values),
        n_b=len(pair.b.values),
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        paired=pair.by_round,
        p_value=verdict.p_value if verdict else None,
        verdict=verdict.word if verdict else "",
        limit=limit,
        reason=found.reason if verdict else _SMOKE,
    )
