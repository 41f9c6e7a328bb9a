"""Deciding while looking: verdicts that stay valid whenever a study stops.

Rounds come in one at a time and one would stop as soon as all rows are decided. Looking after every round with the
usual tests would find a difference between equals sooner or later. So the error rate is *spent*: the look after round
3 may err with probability alpha/2, the next with alpha/6, the k-th with alpha / (k (k + 1)). These sum to alpha over
any number of looks, each look's test is exact for its number of rounds, and by the union bound the chance that any look
ever errs is at most alpha, whatever made the study stop (Lan and DeMets, Biometrika 70, 1983, spend alpha likewise).
The first decision on a row stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from efficientllm.stats.compare import Rows, Verdict, verdicts
from efficientllm.stats.paired import FEWEST_ROUNDS, Comparison, paired
from efficientllm.stats.student import t_quantile


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a study that is looked at after every round may say.

    Attributes:
        verdicts: row -> its first decision, else `unresolved` with the latest comparison.
        decided_at: row -> number of rounds after which it was decided; rows still open are missing.
        rounds: number of rounds looked at.
        open: rows not decided yet.
    """

    verdicts: dict[str, Verdict]
    decided_at: dict[str, int]
    rounds: int
    open: tuple[str, ...]

    def unfinished(self, max_rounds: int) -> bool:
        """Return whether another round is worth running."""
        return bool(self.open) and self.rounds < max_rounds


def spent(look: int, alpha: float = 0.05) -> float:
    """Return the error rate that the `look`-th look (from 1) may spend.

    >>> [round(spent(look), 4) for look in (1, 2, 3)], round(sum(spent(look) for look in range(1, 10_000)), 4)
    ([0.025, 0.0083, 0.0042], 0.05)
    """
    if look < 1:
        raise ValueError(f"look {look}: looks count from 1")
    return alpha / (look * (look + 1))


def decide(
    rows: Rows, baseline: str, better: str, margin: float, *, alpha: float = 0.05, resolution: float = 0.0
) -> Decision:
    """Judge each row against the baseline, having looked after every round.

    A pure function of what is stored: it takes the looks again, round by round in the order of their numbers, so that
    a study that was interrupted comes to the same decisions. All rows of one look are Holm-corrected together. Where
    several metrics are judged at once, give each its part of `alpha`.

    Args:
        rows: technique -> round -> value.
        baseline: the technique that the others are compared with.
        better: `low` or `high`.
        margin: ratio within which a difference does not matter.
        alpha: error rate of the whole study, over all rows and looks.
        resolution: as in `paired`.

    >>> rows = {"mha": {0: 1.0, 1: 1.1, 2: 1.2}, "mqa": {0: 0.5, 1: 0.56, 2: 0.6}}
    >>> decision = decide(rows, "mha", "low", margin=0.02)
    >>> decision.verdicts["mqa"].word, decision.decided_at, decision.unfinished(max_rounds=10)
    ('better', {'mqa': 3}, False)
    """
    rounds = sorted(set().union(*(values.keys() for values in rows.values())))
    first: dict[str, Verdict] = {}
    decided_at: dict[str, int] = {}
    latest: dict[str, Verdict] = {}
    for n in range(min(FEWEST_ROUNDS, len(rounds)), len(rounds) + 1):
        seen = {name: {r: values[r] for r in rounds[:n] if r in values} for name, values in rows.items()}
        latest = verdicts(seen, baseline, better, margin, alpha=spent(_look(n), alpha), resolution=resolution)
        for name, verdict in latest.items():
            if verdict.word != "unresolved" and name not in first:
                first[name], decided_at[name] = verdict, n
    still_open = tuple(name for name in latest if name not in first)
    return Decision(verdicts={**latest, **first}, decided_at=decided_at, rounds=len(rounds), open=still_open)


def confidence_sequence(
    a: Mapping[int, float], b: Mapping[int, float], better: str, *, alpha: float = 0.05
) -> Comparison:
    """Compare `a` with `b` by an interval that covers the true ratio after every round at once.

    Wider than that of `paired` for the same rounds: the price of having been allowed to stop at any of them.

    >>> a, b = {0: 1.0, 1: 1.1, 2: 1.2}, {0: 2.0, 1: 2.1, 2: 2.2}
    >>> once, always = paired(a, b, "low"), confidence_sequence(a, b, "low")
    >>> always.low < once.low < once.ratio < once.high < always.high
    True
    """
    n = len(a.keys() & b.keys())
    return paired(a, b, better, confidence=1 - spent(_look(n), alpha))


def rounds_needed(comparison: Comparison, alpha: float = 0.05, most: int = 1000) -> int | None:
    """Return about how many rounds would tell this difference from none, if it and its spread stay as they are.

    None where there is no spread to go by, no difference, or more than `most` rounds were needed.

    >>> noisy = paired({0: 1.00, 1: 1.10, 2: 0.95}, {0: 1.05, 1: 1.20, 2: 1.10}, "low")
    >>> rounds_needed(noisy)
    8
    """
    if not comparison.standard_error or comparison.shift == 0:
        return None
    effect = abs(comparison.shift) / (comparison.standard_error * math.sqrt(comparison.n))
    for n in range(FEWEST_ROUNDS, most + 1):
        if effect * math.sqrt(n) > t_quantile(1 - spent(_look(n), alpha) / 2, n - 1):
            return n
    return None


def _look(rounds: int) -> int:
    """Return which look comes after so many rounds; below three rounds nothing is tested, so nothing is spent."""
    return max(1, rounds - FEWEST_ROUNDS + 1)
