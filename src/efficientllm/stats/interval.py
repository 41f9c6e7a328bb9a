"""The interval of a figure over processes.

The unit of replication is the process: one value a process goes in, whatever number of steps stands behind it. Times,
rates, bytes and joules are positive and vary by ratios, so the interval is Student's t on their logarithms; the
estimate is the geometric mean. Derivation and simulated coverage: `docs/statistics.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.stats.student import t_quantile

#: Spread (of logarithms, or relative to the largest value) below which values count as the same: rounding of doubles.
SAME = 1e-12


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate over processes and how sure it is.

    Attributes:
        estimate: geometric mean (`scale` `log`), arithmetic mean (`linear`), or None without any value.
        low, high: ends of the interval, or None.
        n: number of processes.
        why_no_interval: why `low` and `high` are None, else empty.
        scale: `log`, or `linear` where a value is zero or negative and has no logarithm.
    """

    estimate: float | None
    low: float | None = None
    high: float | None = None
    n: int
    why_no_interval: str = ""
    scale: str = "log"


def process_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the interval for the value of a typical process, from one value a process.

    Below three values there is no interval. Identical values have none either: zero spread says that the quantity is
    exact at its resolution, not that it is known without limit.

    Raises:
        ValueError: a value is not finite.

    >>> interval = process_interval([1.00, 1.02, 0.98])
    >>> round(interval.estimate, 3), round(interval.low, 2), round(interval.high, 2)
    (1.0, 0.95, 1.05)
    >>> process_interval([1.0, 1.1]).why_no_interval
    'only 2 processes, 1.000 and 1.100: no interval below 3'
    """
    require_finite(values)
    scale = "log" if all(value > 0 for value in values) else "linear"
    points = [math.log(value) for value in values] if scale == "log" else list(values)
    back = math.exp if scale == "log" else float
    n = len(points)
    if n == 0:
        return Interval(estimate=None, n=0, why_no_interval="no process gave a value", scale=scale)
    center, spread = mean_and_spread(points)
    why = _why_none(values) or ("" if spread > 0 else _identical(n))
    if why:
        return Interval(estimate=back(center), n=n, why_no_interval=why, scale=scale)
    half = t_quantile((1 + confidence) / 2, n - 1) * spread / math.sqrt(n)
    return Interval(estimate=back(center), low=back(center - half), high=back(center + half), n=n, scale=scale)


def mean_and_spread(points: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; a spread that is only the rounding of doubles is 0.

    >>> mean_and_spread([0.1 + 0.2, 0.3, 0.3])[1]
    0.0
    """
    n = len(points)
    center = math.fsum(points) / n
    if n < 2:
        return center, 0.0
    spread = math.sqrt(math.fsum((point - center) ** 2 for point in points) / (n - 1))
    return center, spread if spread > SAME * max(1.0, *map(abs, points)) else 0.0


def require_finite(values: Sequence[float]) -> None:
    """Raise ValueError if a value is infinite or not a number: no statistic may swallow it."""
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{value} among the values of the processes: leave it out and say why")


def _why_none(values: Sequence[float]) -> str:
    if len(values) == 1:
        return "only 1 process: no interval"
    if len(values) == 2:
        return f"only 2 processes, {values[0]:#.4g} and {values[1]:#.4g}: no interval below 3"
    return ""


def _identical(n: int) -> str:
    return f"all {n} processes gave the same value: exact at its resolution, no spread to make an interval of"
