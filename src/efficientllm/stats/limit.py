"""Whether a limit is kept: non-inferiority, for `quality may drop by at most 3 %`.

A limit is a promise, so doubt counts against it: it `holds` only when the whole one-sided interval lies on the right
side, `fails` only when the whole interval lies on the wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from efficientllm.stats.paired import Comparison, beyond, direction, paired
from efficientllm.stats.student import t_quantile


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Whether a limit is kept.

    Attributes:
        verdict: `holds`, `fails` or `cannot tell`.
        p_value: one-sided, of the limit being broken: small means that it holds; None below three common rounds.
        bound: the ratio that the true one is not worse than, with the confidence asked for, or None.
        comparison: the paired comparison behind it; its `reason` says what is missing.
    """

    verdict: str
    p_value: float | None
    bound: float | None
    comparison: Comparison


def non_inferiority(
    a: Mapping[int, float],
    b: Mapping[int, float],
    better: str,
    limit: float,
    *,
    alpha: float = 0.05,
    resolution: float = 0.0,
) -> Limit:
    """Judge whether `a` is worse than `b` by at most `limit`, paired by round.

    An absolute limit (`at most 8 GiB`) is the same with b = the bound in every round and `limit=0`.

    Args:
        a: round -> value of the candidate.
        b: round -> value of what it must not fall behind.
        better: `low` or `high`.
        limit: a ratio: 0.03 allows 3 % less where high is better, 3 % more where low is.
        alpha: error allowed to each of `holds` and `fails`.
        resolution: as in `paired`.

    >>> base = {0: 0.500, 1: 0.510, 2: 0.490, 3: 0.505}
    >>> non_inferiority({r: v * 0.99 for r, v in base.items()}, base, "high", limit=0.03).verdict
    'holds'
    >>> non_inferiority({0: 0.48, 1: 0.51, 2: 0.46, 3: 0.50}, base, "high", limit=0.03).verdict
    'cannot tell'
    """
    comparison = paired(a, b, better, resolution=resolution)
    p_value, p_broken = kept_or_broken(comparison, better, limit)
    sign = direction(better)
    verdict = "cannot tell"
    if p_value is not None and p_value < alpha:
        verdict = "holds"
    elif p_broken is not None and p_broken < alpha:
        verdict = "fails"
    return Limit(verdict=verdict, p_value=p_value, bound=_bound(comparison, sign, alpha), comparison=comparison)


def kept_or_broken(comparison: Comparison, better: str, limit: float) -> tuple[float | None, float | None]:
    """Return two one-sided p-values of a limit: small first, it is kept; small second, it is broken.

    None and None below the fewest values that a spread can be told of. At the limit itself both are 0.5.

    >>> from efficientllm.stats.paired import paired
    >>> slower = paired({0: 1.10, 1: 1.11, 2: 1.10}, {0: 1.0, 1: 1.0, 2: 1.0}, "low")
    >>> kept, broken = kept_or_broken(slower, "low", 0.05)
    >>> kept > 0.99, broken < 0.01
    (True, True)
    """
    sign = direction(better)
    if not 0 <= limit < 1:
        raise ValueError(f"a limit of {limit}: give a ratio from 0 to below 1, 0.03 for 3 %")
    distance = sign * comparison.shift + _allowed(comparison, sign, limit)
    return beyond(distance, comparison), beyond(-distance, comparison)


def _allowed(comparison: Comparison, sign: int, limit: float) -> float:
    """Return how far the shift may lie on the worse side."""
    if comparison.scale == "linear":
        return limit * comparison.size
    return -math.log1p(-limit) if sign > 0 else math.log1p(limit)


def _bound(comparison: Comparison, sign: int, alpha: float) -> float | None:
    if comparison.standard_error is None or comparison.scale == "linear":
        return None
    return math.exp(comparison.shift - sign * t_quantile(1 - alpha, comparison.freedom()) * comparison.standard_error)
