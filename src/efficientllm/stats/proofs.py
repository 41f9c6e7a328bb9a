"""How often the rules of this folder are wrong, counted on simulated studies of equal truth (`simulate`).

Each function takes logarithms of values over the truth, `[studies, techniques, rounds]`, and returns a share of
studies. `tests/prove` holds them to their nominal rates; `benchmarks/studies.py` prints them for `docs/statistics.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from efficientllm.stats.compare import Rows, verdicts
from efficientllm.stats.interval import process_interval
from efficientllm.stats.sequential import decide
from efficientllm.stats.simulate import as_rows

if TYPE_CHECKING:
    from efficientllm.stats.simulate import Array

#: Says of one table which words its rows get.
Judge = Callable[[Rows, str], Iterable[str]]


def coverage(values: Array) -> float:
    """Return the share of studies whose interval holds the truth; `values` is `[studies, processes]`.

    A study without an interval counts as one that misses.
    """
    import numpy as np

    intervals = [process_interval(study) for study in np.exp(values).tolist()]
    held = [i.low is not None and i.high is not None and i.low <= 1.0 <= i.high for i in intervals]
    return sum(held) / len(held)


def share_saying(values: Array, word: str, judge: Judge, *, ratio: float = 1.0) -> float:
    """Return the share of studies in which `judge` says `word` of at least one row.

    Args:
        values: all of equal truth; technique 0 is the baseline.
        word: `better`, `worse` or `equivalent`.
        judge: takes the rows and the baseline's name.
        ratio: how much larger the true values of all other techniques are made.
    """
    names = [f"technique {number}" for number in range(values.shape[1])]
    shifted = values.copy()
    shifted[:, 1:] += math.log(ratio)
    said = [word in set(judge(as_rows(study, names), names[0])) for study in shifted]
    return sum(said) / len(said)


def by_verdicts(margin: float) -> Judge:
    """Return the judge that looks once, at the end; low is better."""

    def judge(rows: Rows, baseline: str) -> Iterable[str]:
        return [verdict.word for verdict in verdicts(rows, baseline, "low", margin).values()]

    return judge


def by_sequential(margin: float) -> Judge:
    """Return the judge that looks after every round by the rule that allows it."""

    def judge(rows: Rows, baseline: str) -> Iterable[str]:
        return [verdict.word for verdict in decide(rows, baseline, "low", margin).verdicts.values()]

    return judge


def by_peeking(margin: float) -> Judge:
    """Return the judge that looks after every round with the rule for one look: what must not be done."""

    def judge(rows: Rows, baseline: str) -> Iterable[str]:
        num_rounds = len(rows[baseline])
        for n in range(3, num_rounds + 1):
            seen = {name: {r: v for r, v in values.items() if r < n} for name, values in rows.items()}
            yield from (verdict.word for verdict in verdicts(seen, baseline, "low", margin).values())

    return judge
