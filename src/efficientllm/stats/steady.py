"""When warm-up is over: whether step time has become steady.

The later half of the steps so far is looked at, three at the least. It is steady

1. when its slowest step is at most `TOLERANCE` slower than its fastest, or, for noisier steps,
2. from six steps on, when the medians of its older and newer half differ by at most `TOLERANCE`, or by no more than
   twice what their own noise explains (spread taken from absolute deviations, so that one pause does not hide a trend).

A first step that compiles or captures a graph thus keeps warm-up going until it lies in the earlier half or before the
last three. Getting slower is as unsteady as getting faster.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

FEWEST_STEPS = 3
TOLERANCE = 0.05
_FEWEST_FOR_TREND = 6
#: Standard error of a median of normal values over their standard deviation / sqrt(n).
_MEDIAN_NOISE = math.sqrt(math.pi / 2)
#: Standard deviation of normal values over their median absolute deviation.
_FROM_MAD = 1.4826


def is_steady(step_s: Sequence[float] | NDArray[np.float64], tolerance: float = TOLERANCE) -> bool:
    """Return whether these warm-up steps (in seconds, in their order) have become steady.

    >>> is_steady([30.0, 0.1, 0.1]), is_steady([30.0, 0.1, 0.1, 0.1]), is_steady([0.1, 0.1])
    (False, True, False)
    >>> is_steady([0.9 ** i for i in range(20)])
    False
    """
    import numpy as np

    tail = np.asarray(step_s, dtype=np.float64)[-max(FEWEST_STEPS, len(step_s) // 2) :]
    if len(tail) < FEWEST_STEPS or tail.min() <= 0:
        return False
    if float(tail.max() / tail.min()) - 1 <= tolerance:
        return True
    return len(tail) >= _FEWEST_FOR_TREND and _no_trend(np.log(tail), tolerance)


class SteadyRule:
    """Decides after each warm-up step whether warm-up goes on.

        rule = SteadyRule(min_steps=3, max_s=60)
        while rule.unfinished():
            rule.add(timed(step))

    Attributes:
        steady: whether step time had become steady; False after warm-up ran into `max_s`, which a record should say.
    """

    def __init__(self, min_steps: int = FEWEST_STEPS, max_s: float = 60.0, tolerance: float = TOLERANCE) -> None:
        self.min_steps = max(FEWEST_STEPS, min_steps)
        self.max_s, self.tolerance = max_s, tolerance
        self.steady = False
        self._steps = array("d")
        self._elapsed_s = 0.0
        self._next_look = self.min_steps

    def add(self, step_s: float) -> None:
        """Take in the seconds of one step."""
        self._steps.append(step_s)
        self._elapsed_s += step_s

    def unfinished(self) -> bool:
        """Return whether more warm-up is needed; never before the fewest steps, whatever time they took."""
        n = len(self._steps)
        if self.steady:
            return False
        if n >= self._next_look:
            self.steady = is_steady(self._steps, self.tolerance)
            self._next_look = n + max(1, n // 10)
        return not self.steady and (n < self.min_steps or self._elapsed_s < self.max_s)


def _no_trend(logs: NDArray[np.float64], tolerance: float) -> bool:
    import numpy as np

    half = len(logs) // 2
    older, newer = logs[:half], logs[-half:]
    rest = np.concatenate([older - np.median(older), newer - np.median(newer)])
    noise = _FROM_MAD * float(np.median(np.abs(rest))) * _MEDIAN_NOISE * math.sqrt(2 / half)
    return abs(float(np.median(newer) - np.median(older))) <= max(math.log1p(tolerance), 2 * noise)
