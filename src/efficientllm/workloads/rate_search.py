"""The highest rate that holds: doubled or halved until bracketed, then bisected, each rate tried several times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: Rates that a search tries at most: 20 halvings tell a thousandth of a range of 1 to 1,000.
MOST_RATES = 24


@dataclass(frozen=True)
class FoundRate:
    """Where the highest rate lies.

    Attributes:
        low: highest rate that held in each try, as did all lower ones; 0 where not even the lowest did.
        high: lowest rate that failed in each try, as did all higher ones; None where no such rate was found.
        tries: rate -> whether it held, for each try.
    """

    low: int
    high: int | None
    tries: dict[int, tuple[bool, ...]]


def search_rate(holds: Callable[[int], bool], *, start: int, precision: float, repeats: int) -> FoundRate:
    """Find the highest whole rate that holds.

    Args:
        holds: tries a rate; tries of the same rate may differ.
        start: the rate that is tried first.
        precision: the search ends when two rates, one that held and one that did not, are apart by this share.
        repeats: tries of each rate. One whose tries differ lies within the interval that is returned.

    >>> found = search_rate(lambda rate: rate <= 700, start=60, precision=0.05, repeats=2)
    >>> found.low <= 700 < found.high, found.high / found.low < 1.05
    (True, True)
    >>> search_rate(lambda rate: False, start=60, precision=0.05, repeats=2).low
    0
    """
    tries: dict[int, tuple[bool, ...]] = {}

    def tried(rate: int) -> tuple[bool, ...]:
        if rate not in tries:
            tries[rate] = tuple(holds(rate) for _ in range(repeats))
        return tries[rate]

    rate = start
    while any(tried(rate)) and len(tries) < MOST_RATES:
        rate *= 2
    rate = min(start, *tries)
    while not all(tried(rate)) and rate > 1 and len(tries) < MOST_RATES:
        rate //= 2
    for sure in (all, any):  # the lower edge of the interval, then the upper; without doubt they are one
        low = max((rate for rate, held in tries.items() if sure(held)), default=0)
        high = min((rate for rate, held in tries.items() if not sure(held) and rate > low), default=None)
        while high is not None and high - low > 1 and high > low * (1 + precision) and len(tries) < MOST_RATES:
            middle = _middle(max(low, 1), high)
            low, high = (middle, high) if sure(tried(middle)) else (low, middle)
    return _interval(tries)


def _middle(low: int, high: int) -> int:
    """Return the whole rate that is as many times above `low` as below `high`."""
    return min(max(round(math.sqrt(low * high)), low + 1), high - 1)


def _interval(tries: dict[int, tuple[bool, ...]]) -> FoundRate:
    """Return the bounds outside of which all tries agree."""
    doubtful = [rate for rate, held in tries.items() if not all(held)]
    sound = [rate for rate in tries if all(tries[rate]) and rate < min(doubtful, default=rate + 1)]
    best = [rate for rate, held in tries.items() if any(held)]
    lost = [rate for rate, held in tries.items() if not any(held) and rate > max(best, default=0)]
    return FoundRate(low=max(sound, default=0), high=min(lost, default=None), tries=tries)
