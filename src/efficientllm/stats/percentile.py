"""Percentiles that the samples can bear.

A percentile needs ten samples beyond it, so that it does not hang on one or two of them: p95 wants 200 samples, p99
1,000. The median is always told. Below its number a percentile is absent, with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_BEYOND = 10


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """One percentile, or why there is none.

    Attributes:
        value: in the samples' unit, or None.
        n: number of samples.
        absent: why `value` is None, else empty.
    """

    value: float | None
    n: int
    absent: str = ""


def samples_needed(percent: float) -> int:
    """Return how many samples a percentile needs.

    >>> samples_needed(50), samples_needed(95), samples_needed(99)
    (1, 200, 1000)
    """
    if not 0 < percent < 100:
        raise ValueError(f"percentile {percent}: give a number between 0 and 100")
    beyond = min(percent, 100 - percent) / 100
    return 1 if percent == 50 else math.ceil(round(_BEYOND / beyond, 6))


def percentile(values: Sequence[float] | NDArray[np.float64], percent: float) -> Percentile:
    """Return a percentile of `values`, interpolated between neighbours, if there are enough of them.

    >>> percentile([3.0, 1.0, 2.0], 50).value
    2.0
    >>> percentile([1.0] * 999, 99).absent
    'p99 needs 1000 samples, there are 999'
    """
    import numpy as np

    needed, n = samples_needed(percent), len(values)
    if n < needed:
        return Percentile(value=None, n=n, absent=f"p{percent:g} needs {needed} samples, there are {n}")
    return Percentile(value=float(np.percentile(np.asarray(values, dtype=np.float64), percent)), n=n)
