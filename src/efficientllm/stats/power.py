"""What a quality run can show before it is run: the smallest drop that its items can tell, and how many are needed.

Two models answer the same items, so what counts are the items on which they disagree. Where their share is not known,
the models are taken to err independently of each other: the worst case that is still plausible, so the answer is on
the safe side for a technique that keeps most answers. Formula: R. J. Connor, Biometrics 43 (1987), for McNemar's test.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def smallest_detectable_drop(
    accuracy: float, items: int, *, disagreement: float | None = None, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Return the smallest drop in accuracy that `items` tell with probability `power`, or None if none is.

    Args:
        accuracy: the baseline's, as a ratio.
        items: number of items that both answer.
        disagreement: share of items that exactly one of the two answers right, where it is known.
        alpha: two-sided error rate.
        power: chance to see a drop of that size.

    >>> round(smallest_detectable_drop(0.6, 1000), 3), round(smallest_detectable_drop(0.6, 1000, disagreement=0.1), 3)
    (0.062, 0.028)
    >>> smallest_detectable_drop(0.3, 10) is None
    True
    """
    _check(accuracy, disagreement)
    if items < 1:
        raise ValueError(f"{items} items: at least one is needed")

    def short(drop: float) -> float:
        return _items(accuracy, drop, disagreement, alpha, power) - items

    largest = accuracy if disagreement is None else min(accuracy, disagreement)
    if largest == 0 or short(largest) > 0:
        return None
    return _root(short, 0.0, largest)


def items_needed(
    accuracy: float, drop: float, *, disagreement: float | None = None, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Return how many items tell a drop of `drop` (a difference of accuracies) with probability `power`.

    >>> items_needed(0.6, 0.03), items_needed(0.6, 0.03, disagreement=0.1)
    (4237, 870)
    """
    _check(accuracy, disagreement)
    if not 0 < drop <= accuracy:
        raise ValueError(f"a drop of {drop} from an accuracy of {accuracy}")
    if disagreement is not None and drop > disagreement:
        raise ValueError(f"a drop of {drop} with only {disagreement} of the items answered differently")
    return math.ceil(_items(accuracy, drop, disagreement, alpha, power))


def smallest_detectable_change(spread: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Return the smallest mean change that `n` paired differences tell with probability `power`; None below two.

    For rounds: `spread` is the standard deviation of the differences of logarithms, and so is the answer's unit. For a
    loss per item or document: that of the differences item by item.

    >>> round(smallest_detectable_change(0.01, 3), 4), round(smallest_detectable_change(0.01, 10), 4)
    (0.0326, 0.01)
    """
    from scipy.special import nctdtr

    from efficientllm.stats.student import t_quantile

    if n < 2:
        return None
    critical = t_quantile(1 - alpha / 2, n - 1)

    def excess(effect: float) -> float:
        return float(nctdtr(n - 1, effect, critical)) - (1 - power)

    return _root(excess, 0.0, 20 * critical) * spread / math.sqrt(n)


def _items(accuracy: float, drop: float, disagreement: float | None, alpha: float, power: float) -> float:
    from scipy.special import ndtri

    if drop == 0:
        return math.inf
    lower = accuracy - drop
    differ = accuracy * (1 - lower) + (1 - accuracy) * lower if disagreement is None else disagreement
    differ = max(differ, drop)
    root = float(ndtri(1 - alpha / 2)) * math.sqrt(differ) + float(ndtri(power)) * math.sqrt(differ - drop**2)
    return (root / drop) ** 2


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function crosses zero between `low` and `high`, by bisection."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return high


def _check(accuracy: float, disagreement: float | None) -> None:
    for name, value in (("accuracy", accuracy), ("disagreement", disagreement)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} {value}: give a ratio between 0 and 1")
