"""Which conclusions about techniques carry over from one side to the other, and which flip.

A conclusion is a verdict of one technique against another within one side. Ratios within a side need no ceilings, so
they compare between machines as they are; each side's verdicts are corrected for their number as in its own table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from efficientllm.analysis.cells import MOST_RANKED
from efficientllm.analysis.comparison import CARRIES_OVER, FADES, FLIPS, UNDECIDED, Conclusion
from efficientllm.analysis.comparison_rows import Part, Shared
from efficientllm.analysis.metrics._contract import MetricEntry
from efficientllm.stats.compare import Verdict, judged, verdicts
from efficientllm.stats.paired import paired

_Verdicts = dict[tuple[str, str], Verdict]


def conclusions(windows: Sequence[Shared]) -> tuple[Conclusion, ...]:
    """Return each pair of techniques in each window by each metric: against the baseline first, then all others."""
    return tuple(one for shared in windows if shared.ranked() for one in _of_window(shared))


def word(on_a: str, on_b: str) -> str:
    """Say what becomes of a conclusion.

    >>> word("better", "better"), word("better", "worse"), word("better", "equivalent"), word("better", "unresolved")
    ('carries over', 'flips', 'fades', 'undecided')
    """
    if "unresolved" in (on_a, on_b):
        return UNDECIDED
    if on_a == on_b:
        return CARRIES_OVER
    return FADES if "equivalent" in (on_a, on_b) else FLIPS


def _of_window(shared: Shared) -> Iterator[Conclusion]:
    for entry in shared.concluded:
        on_a, on_b = (_verdicts(part, entry) for part in (shared.a, shared.b))
        for pair in on_a:
            if pair in on_b:
                yield _conclusion(shared, entry, pair, on_a[pair], on_b[pair])


def _conclusion(shared: Shared, entry: MetricEntry, pair: tuple[str, str], a: Verdict, b: Verdict) -> Conclusion:
    return Conclusion(
        stage=shared.stage,
        window=shared.label,
        column=entry.column_for(shared.a.window.name),
        technique=pair[0],
        other=pair[1],
        baseline=pair[1] == _baseline(shared.a) == _baseline(shared.b),
        on_a=a.word,
        on_b=b.word,
        ratio_a=a.comparison.ratio,
        ratio_b=b.comparison.ratio,
        word=word(a.word, b.word),
    )


def _verdicts(part: Part, entry: MetricEntry) -> _Verdicts:
    """Return the verdict of each pair within one side, the baseline's as its table says them."""
    values = _values(part, entry)
    baseline = _baseline(part)
    better, margin = entry.column.better, entry.margin
    first = verdicts(values, baseline, better, margin) if baseline is not None else {}
    found: _Verdicts = {(name, baseline or ""): verdict for name, verdict in first.items()}
    if len(values) > MOST_RANKED:
        return found
    # sorted, so that a pair stands in the same order on both sides
    pairs = list(combinations(sorted(values), 2))
    between = judged({(one, other): paired(values[one], values[other], better) for one, other in pairs}, margin)
    return found | {pair: verdict for pair, verdict in between.items() if baseline not in pair}


def _values(part: Part, entry: MetricEntry) -> Mapping[str, Mapping[int, float]]:
    """Return technique -> round -> value, but of quality that is none."""
    return {
        name: cells[entry.column.key].values
        for name, cells in part.table.items()
        if cells[entry.column.key].value is not None and not (entry.group == "quality" and name in part.floored)
    }


def _baseline(part: Part) -> str | None:
    base = part.group.baseline()
    return part.group.rows[base][0].trial.technique() if base is not None else None
