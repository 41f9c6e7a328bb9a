"""Two techniques compared, paired by round.

The repeats of one round share seed, items and moment, so what they have in common cancels in the difference. All is
Student's t on the differences of logarithms; `docs/statistics.md` derives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from efficientllm.stats.interval import mean_and_spread, require_finite
from efficientllm.stats.student import t_quantile, t_upper_tail

#: Fewest common rounds of which a spread can be told at all usefully.
FEWEST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How `a` differs from `b`, and how sure that is.

    Attributes:
        ratio: geometric mean of a/b over the common rounds, or None on the `linear` scale.
        low, high: ends of the ratio's interval, or None.
        p_value: two-sided, of no difference, or None below three common rounds.
        n: number of common rounds.
        improves: whether the estimate is on the better side.
        reason: why there is no p-value or no interval, else empty.
        scale: `log`, or `linear` where a value is zero or negative: then differences are compared, not ratios.
        shift, standard_error: mean difference of logarithms (`linear`: of values) and its standard error.
        size: what a relative margin is taken of: 1 on the log scale, the mean of |b| on the linear one.
        df: degrees of freedom of the standard error, where they are not n - 1 (see `unpaired`).
    """

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    n: int
    improves: bool = False
    reason: str = ""
    scale: str = "log"
    shift: float = 0.0
    standard_error: float | None = None
    size: float = 1.0
    df: float | None = None

    def freedom(self) -> float:
        """Return the degrees of freedom of the standard error."""
        return self.n - 1 if self.df is None else self.df


def paired(
    a: Mapping[int, float],
    b: Mapping[int, float],
    better: str,
    *,
    confidence: float = 0.95,
    resolution: float = 0.0,
) -> Comparison:
    """Compare `a` with `b`, both round -> value, over the rounds that both have.

    Differences that are the same in every round (bytes counted from shapes, say) have no spread to judge them by: they
    are taken as exact, with a p-value of 0 (1 where there is no difference) and no interval.

    Args:
        a: the values looked at.
        b: the values they are compared with, for example the baseline's.
        better: `low` or `high`.
        confidence: of the interval.
        resolution: smallest step that the values can take (an accuracy over 100 items: 0.01), in their unit. Values
            rounded so coarsely agree by chance; their spread counts as that of the rounding at least.

    Raises:
        ValueError: a value is not finite, or `better` is neither word.

    >>> faster = paired({0: 1.00, 1: 1.10, 2: 1.05}, {0: 2.02, 1: 2.16, 2: 2.10}, better="low")
    >>> round(faster.ratio, 2), faster.improves, faster.p_value < 0.001
    (0.5, True, True)
    >>> paired({0: 1.0}, {0: 2.0, 1: 2.0}, better="low").reason
    '1 round in common: no test below 3'
    """
    sign = direction(better)
    rounds = sorted(a.keys() & b.keys())
    if not rounds:
        return Comparison(n=0, reason="no round in common")
    require_finite([values[r] for values in (a, b) for r in rounds])
    scale = "log" if all(a[r] > 0 and b[r] > 0 for r in rounds) else "linear"
    points = [math.log(a[r]) - math.log(b[r]) if scale == "log" else a[r] - b[r] for r in rounds]
    mean_b = math.fsum(abs(b[r]) for r in rounds) / len(rounds)
    shift, spread = mean_and_spread(points)
    # a difference of two rounded values has at least the variance of two roundings, 2 * resolution^2 / 12
    spread = max(spread, resolution / math.sqrt(6) / (mean_b if scale == "log" else 1.0))
    standard_error = spread / math.sqrt(len(rounds)) if len(rounds) >= FEWEST_ROUNDS else None
    low, high = _ends(shift, standard_error, len(rounds), confidence) if scale == "log" else (None, None)
    return Comparison(
        ratio=math.exp(shift) if scale == "log" else None,
        low=low,
        high=high,
        p_value=_two_sided(shift, standard_error, len(rounds)),
        n=len(rounds),
        improves=shift * sign > 0,
        reason=_reason(standard_error, len(rounds), scale),
        scale=scale,
        shift=shift,
        standard_error=standard_error,
        size=1.0 if scale == "log" else mean_b,
    )


def equivalence(comparison: Comparison, margin: float) -> float | None:
    """Return the p-value of `equivalent within margin`: the larger of two one-sided tests, or None without a spread.

    The margin is a ratio: 0.02 means between 1/1.02 and 1.02 times the other's value (on the linear scale, within 2 %
    of the other's mean size).

    >>> rounds = range(5)
    >>> same = paired({r: 1.0 + 0.001 * (r % 2) for r in rounds}, {r: 1.0 for r in rounds}, better="low")
    >>> equivalence(same, margin=0.02) < 0.001
    True
    """
    if margin < 0:
        raise ValueError(f"a margin of {margin}: give a ratio from 0 upward, 0.02 for 2 %")
    bound = math.log1p(margin) if comparison.scale == "log" else margin * comparison.size
    below = beyond(bound - comparison.shift, comparison)
    above = beyond(bound + comparison.shift, comparison)
    return None if below is None or above is None else max(below, above)


def beyond(distance: float, comparison: Comparison) -> float | None:
    """Return the one-sided p-value of a shift that lies `distance` on the right side of a bound."""
    if comparison.standard_error is None:
        return None
    if comparison.standard_error == 0.0:
        return 0.0 if distance >= 0 else 1.0
    return t_upper_tail(distance / comparison.standard_error, comparison.freedom())


def direction(better: str) -> int:
    """Return -1 for `low`, 1 for `high`."""
    if better not in ("low", "high"):
        raise ValueError(f"better is {better!r}, it must be 'low' or 'high'")
    return 1 if better == "high" else -1


def _ends(
    shift: float, standard_error: float | None, n: int, confidence: float
) -> tuple[float, float] | tuple[None, None]:
    if not standard_error:
        return None, None
    half = t_quantile((1 + confidence) / 2, n - 1) * standard_error
    return math.exp(shift - half), math.exp(shift + half)


def _two_sided(shift: float, standard_error: float | None, n: int) -> float | None:
    if standard_error is None:
        return None
    if standard_error == 0.0:
        return 1.0 if shift == 0.0 else 0.0
    return 2 * t_upper_tail(abs(shift) / standard_error, n - 1)


def _reason(standard_error: float | None, n: int, scale: str) -> str:
    if standard_error is None:
        return f"{n} {'round' if n == 1 else 'rounds'} in common: no test below {FEWEST_ROUNDS}"
    if standard_error == 0.0:
        return f"the same in all {n} rounds: exact at its resolution"
    return "a value is zero or negative: no ratio" if scale == "linear" else ""
