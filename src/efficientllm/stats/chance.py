"""Whether so many right ones of so many would come about at a given chance: the exact binomial tail."""

from __future__ import annotations

import math


def at_least(right: int, items: int, chance: float) -> float:
    """Return the probability of `right` or more of `items`, each right with probability `chance`.

    >>> at_least(2, 2, 0.5), at_least(0, 9, 0.1), at_least(1, 9, 0.0)
    (0.25, 1.0, 0.0)
    """
    if right <= 0:
        return 1.0
    if not 0 < chance < 1:
        return float(chance >= 1 and right <= items)
    odds, rest = math.log(chance), math.log1p(-chance)
    ways = (
        math.lgamma(items + 1) - math.lgamma(k + 1) - math.lgamma(items - k + 1) + k * odds + (items - k) * rest
        for k in range(right, items + 1)
    )
    return min(1.0, math.fsum(math.exp(way) for way in ways))


def clears(right: int, items: int, chance: float, confidence: float = 0.95) -> bool:
    """Whether the lower end of the exact (Clopper-Pearson) interval of a share lies above a chance.

    >>> clears(1, 64, 0.0), clears(0, 64, 0.0), clears(11, 64, 0.1), clears(12, 64, 0.1)
    (True, False, False, True)
    """
    return at_least(right, items, chance) < (1 - confidence) / 2
