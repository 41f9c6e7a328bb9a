"""When a measured window has seen enough: the block bootstrap of its median step time.

Steps of one process are correlated, so blocks of neighbouring steps are drawn, not single steps. What is drawn is the
share of steps below the median; the interval of that share is read back through the sorted steps (Woodruff's interval,
JASA 47, 1952). It is the bootstrap of the median to first order, needs no sorting of resamples, and is cheap enough to
be called between two measured steps. It serves this rule only: how noisy a step is says nothing of how reproducible a
result is.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

from efficientllm.stats.student import t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

#: Below so many steps the spread inside a window cannot be told, and only the window's longest time ends it.
FEWEST_STEPS = 8
#: A window of steps that take no time would never end by its seconds.
MOST_STEPS = 1_000_000
_RESAMPLES = 200
_MOST_BLOCKS = 64


def relative_half_width(step_s: Sequence[float] | NDArray[np.float64], seed: int = 0) -> float:
    """Return half the width of the 95 % interval of the median, over the median; infinite below `FEWEST_STEPS`.

    The same steps and seed give the same answer.

    >>> relative_half_width([0.1] * 20)
    0.0
    >>> relative_half_width([0.1, 0.2] * 2)
    inf
    """
    import numpy as np

    steps = np.asarray(step_s, dtype=np.float64)
    if len(steps) < FEWEST_STEPS:
        return math.inf
    ordered = np.sort(steps)
    median = float(np.median(ordered))
    if median <= 0:
        return math.inf
    low, high = _share_interval(steps, median, seed)
    return (_quantile(ordered, high) - _quantile(ordered, low)) / 2 / median


class WindowRule:
    """Decides after each step whether a window goes on.

    It ends when it has lasted `min_s` and the relative half-width is at most `target`, or when it has lasted `max_s`.
    The width is looked at on a growing schedule (10 % more steps each time), so that the cost of a step stays constant.

        rule = WindowRule(min_s=5, max_s=30, target=0.02)
        while rule.unfinished():
            rule.add(timed(step))

    Attributes:
        half_width: the relative half-width when it was last looked at.
    """

    def __init__(self, min_s: float, max_s: float, target: float, seed: int = 0) -> None:
        if not 0 <= min_s <= max_s:
            raise ValueError(f"a window of at least {min_s} s and at most {max_s} s")
        self.min_s, self.max_s, self.target = min_s, max_s, target
        self.half_width = math.inf
        self._seed = seed
        self._steps = array("d")
        self._elapsed_s = 0.0
        self._next_look = FEWEST_STEPS

    def add(self, step_s: float) -> None:
        """Take in the seconds of one step."""
        self._steps.append(step_s)
        self._elapsed_s += step_s

    def unfinished(self) -> bool:
        """Return whether the window needs more steps."""
        n = len(self._steps)
        if n == 0 or self._elapsed_s < self.min_s:
            return n < MOST_STEPS
        if self._elapsed_s >= self.max_s or n >= MOST_STEPS:
            return False
        if n >= self._next_look:
            self.half_width = relative_half_width(self._steps, self._seed)
            self._next_look = n + max(1, n // 10)
        return self.half_width > self.target


def _share_interval(steps: NDArray[np.float64], median: float, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the share of steps below `median`, from circular moving blocks."""
    import numpy as np

    n = len(steps)
    below = (steps < median) + 0.5 * (steps == median)
    block = max(math.isqrt(n), n // _MOST_BLOCKS)
    num_blocks = -(-n // block)
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([below, below[: block - 1]]))])
    shares = (sums[block:] - sums[:-block]) / block
    drawn = np.random.default_rng(seed).integers(0, n, size=(_RESAMPLES, num_blocks))
    spread = float(np.std(shares[drawn].mean(axis=1)))
    # few blocks know their own spread badly: Student's t with their number widens what the draws show
    half = t_quantile(0.975, num_blocks - 1) * spread * math.sqrt(num_blocks / (num_blocks - 1))
    return max(0.0, 0.5 - half), min(1.0, 0.5 + half)


def _quantile(ordered: NDArray[np.float64], share: float) -> float:
    import numpy as np

    return float(np.interp(share * len(ordered) - 0.5, np.arange(len(ordered)), ordered))
