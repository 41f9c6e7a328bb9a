"""What a table may say of its rows: verdicts against the baseline, and ranks.

Each rests on paired comparisons (`paired`), corrected for the number of comparisons in the table (`holm`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from efficientllm.stats.holm import Key, holm
from efficientllm.stats.limit import Limit, non_inferiority
from efficientllm.stats.paired import Comparison, equivalence, paired
from efficientllm.stats.pairs import compared_pairs

__all__ = [
    "Comparison",
    "Limit",
    "Rank",
    "Verdict",
    "equivalence",
    "judged",
    "non_inferiority",
    "paired",
    "ranks",
    "verdicts",
]

#: The rows of one metric: technique -> round -> value.
Rows = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What may be said of one row against the baseline.

    Attributes:
        word: `better`, `worse`, `equivalent` or `unresolved`.
        comparison: ratio, interval and n, not corrected for the other rows.
        p_value: of no difference, Holm-corrected over the table, or None if there was no test.
        p_equivalent: of a difference beyond the margin, Holm-corrected over the table, or None.
    """

    word: str
    comparison: Comparison
    p_value: float | None = None
    p_equivalent: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A row's place: 1 + the number of rows significantly better, or None if it was compared with none.

    Attributes:
        rank: the place; `tied`: another row has the same.
        beaten_by: the rows significantly better.
    """

    rank: int | None
    tied: bool = False
    beaten_by: tuple[str, ...] = ()


def verdicts(
    rows: Rows,
    baseline: str,
    better: str,
    margin: float,
    *,
    alpha: float = 0.05,
    resolution: float = 0.0,
) -> dict[str, Verdict]:
    """Return a verdict for each row but the baseline.

    `equivalent`: shown to differ by less than the margin, even where a smaller difference is certain: the margin says
    what does not matter. `better`, `worse`: shown to differ. `unresolved`: neither could be shown. The chance of any
    false `better` or `worse` in the table is at most `alpha`, and so is that of any false `equivalent`.

    Args:
        rows: technique -> round -> value.
        baseline: the technique that the others are compared with; a table without it gets no verdicts.
        better: `low` or `high`.
        margin: ratio within which a difference does not matter, for example 0.02; 0 says that all differences do.
        alpha: error rate of the whole table.
        resolution: smallest step that the values can take, as in `paired`.

    >>> rows = {"mha": {0: 1.0, 1: 1.1, 2: 1.2}, "mqa": {0: 0.5, 1: 0.56, 2: 0.6}, "mla": {0: 1.3, 1: 1.0, 2: 1.6}}
    >>> {name: verdict.word for name, verdict in verdicts(rows, "mha", "low", margin=0.02).items()}
    {'mqa': 'better', 'mla': 'unresolved'}
    """
    if baseline not in rows:
        return {}
    compared = {
        name: paired(values, rows[baseline], better, confidence=1 - alpha, resolution=resolution)
        for name, values in rows.items()
        if name != baseline
    }
    return judged(compared, margin, alpha=alpha)


def judged(
    compared: Mapping[Key, Comparison], margin: float | Mapping[Key, float], *, alpha: float = 0.05
) -> dict[Key, Verdict]:
    """Return a verdict for each comparison, Holm-corrected over all of them; arguments as in `verdicts`.

    The comparisons may be with one baseline, of all pairs, or of several metrics with a `margin` each.
    """
    margins = margin if isinstance(margin, Mapping) else dict.fromkeys(compared, margin)
    different = holm({name: comparison.p_value for name, comparison in compared.items()})
    same = holm({name: equivalence(comparison, margins[name]) for name, comparison in compared.items()})
    return {
        name: Verdict(
            word=_word(comparison.improves, different[name], same[name], alpha),
            comparison=comparison,
            p_value=different[name],
            p_equivalent=same[name],
        )
        for name, comparison in compared.items()
    }


def ranks(
    rows: Rows, better: str, *, margin: float = 0.0, alpha: float = 0.05, resolution: float = 0.0
) -> dict[str, Rank]:
    """Return each row's rank; all pairs are compared, Holm-corrected over all of them.

    Ties need not be transitive: a noisy row can tie with two rows of which one beats the other. With a `margin`, a row
    shown equivalent is not called better.

    >>> rows = {"a": {0: 1.00, 1: 1.01, 2: 1.02}, "b": {0: 2.0, 1: 2.01, 2: 2.04}, "c": {0: 1.8, 1: 2.3, 2: 0.9}}
    >>> {name: rank.rank for name, rank in ranks(rows, "low").items()}
    {'a': 1, 'b': 2, 'c': 1}
    """
    compared = compared_pairs(rows, better, margin, resolution)
    different = holm({pair: one.p_value for pair, one in compared.items()})
    same = holm({pair: one.p_same for pair, one in compared.items()})
    beaten_by: dict[str, list[str]] = {name: [] for name in rows}
    for (one, other), found in compared.items():
        word = _word(found.improves, different[one, other], same[one, other], alpha)
        if word == "better":
            beaten_by[other].append(one)
        elif word == "worse":
            beaten_by[one].append(other)
    tested = {name for pair, p in different.items() if p is not None for name in pair}
    places = {name: 1 + len(beaten_by[name]) for name in rows if name in tested}
    taken = list(places.values())
    return {
        name: Rank(rank=places[name], tied=taken.count(places[name]) > 1, beaten_by=tuple(beaten_by[name]))
        if name in places
        else Rank(rank=None)
        for name in rows
    }


def _word(improves: bool, p_different: float | None, p_same: float | None, alpha: float) -> str:
    # each one-sided test at half of alpha: `equivalent` is said when the two-sided interval lies within the margin
    if p_same is not None and p_same < alpha / 2:
        return "equivalent"
    if p_different is not None and p_different < alpha:
        return "better" if improves else "worse"
    return "unresolved"
