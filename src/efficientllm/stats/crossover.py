"""Where a ratio that changes with a size crosses one: the batch at which a technique stops helping.

Each round gives a curve: the logarithm of technique over baseline at each measured batch, straight between neighbours
in log2 of the batch. The estimate is where the mean curve crosses zero. The interval is every batch at which Student's
t interval of the rounds' curves still holds zero (Fieller's way, JRSS B 16, 1954): at the true crossing it does so
with the wanted probability, whatever the slope, where a bootstrap over three rounds covers three in four.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from efficientllm.stats.interval import require_finite
from efficientllm.stats.paired import FEWEST_ROUNDS
from efficientllm.stats.student import t_quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Between two measured batches so many places are looked at; the ends of an interval are known to that.
_PLACES = 512


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """Where a technique stops helping, or starts to.

    Attributes:
        kind: `always` or `never` helps at a measured batch; `stops` or `starts` to once; `mixed`: more than once.
        batch: the crossing, of `stops` and `starts`; `between`: the measured neighbours.
        low, high: ends of its interval; None where it reaches beyond what was measured, or there is none.
        measured: the batches with both techniques, ascending; `helps`: those where the mean is below one.
        unsure: those at which the interval of the ratio holds one.
        n: rounds; below three there is no interval, and `unsure` is empty.
    """

    kind: str
    measured: tuple[int, ...]
    n: int
    helps: tuple[int, ...] = ()
    unsure: tuple[int, ...] = ()
    batch: float | None = None
    between: tuple[int, int] | None = None
    low: float | None = None
    high: float | None = None


def crossover(ratios: Mapping[int, Mapping[int, float]], confidence: float = 0.95) -> Crossover | None:
    """Find where the ratio technique / baseline, of which less is better, crosses one.

    Args:
        ratios: batch -> round -> ratio; rounds that some batch lacks are left out.
        confidence: of the interval.

    Returns:
        None with fewer than two batches, or without a round that all of them have.

    Raises:
        ValueError: a ratio is not finite, or not above zero.

    >>> found = crossover({16: {0: 0.5}, 64: {0: 2.0}})
    >>> found.kind, round(found.batch, 6), found.between
    ('stops', 32.0, (16, 64))
    """
    import numpy as np

    batches = sorted(batch for batch, rounds in ratios.items() if rounds)
    common = set.intersection(*(set(ratios[batch]) for batch in batches)) if batches else set()
    if len(batches) < 2 or not common:
        return None
    values = [[ratios[batch][number] for batch in batches] for number in sorted(common)]
    require_finite([value for row in values for value in row])
    if min(min(row) for row in values) <= 0:
        raise ValueError("a ratio at or below zero has no logarithm")
    logs_RB = np.log(np.asarray(values, dtype=np.float64))
    mean_B = logs_RB.mean(axis=0)
    helps = tuple(batch for batch, mean in zip(batches, mean_B, strict=True) if mean < 0)
    turns = [i for i in range(len(batches) - 1) if (mean_B[i] < 0) != (mean_B[i + 1] < 0)]
    unsure = _holding_zero(logs_RB, confidence)
    told = Crossover(
        kind="mixed" if turns else "always" if helps else "never",
        measured=tuple(batches),
        n=len(common),
        helps=helps,
        unsure=tuple(batch for batch, held in zip(batches, unsure, strict=True) if held),
    )
    if len(turns) != 1:
        return told
    turn = turns[0]
    share = mean_B[turn] / (mean_B[turn] - mean_B[turn + 1])
    at = _between(math.log2(batches[turn]), math.log2(batches[turn + 1]), share)
    low, high = _ends(logs_RB, batches, at, confidence) if len(common) >= FEWEST_ROUNDS else (None, None)
    kind, between = "stops" if mean_B[turn] < 0 else "starts", (batches[turn], batches[turn + 1])
    return replace(told, kind=kind, batch=2.0**at, between=between, low=low, high=high)


def _between(low: float, high: float, share: float) -> float:
    return float(low + (high - low) * share)


def _holding_zero(logs_RX: NDArray[np.float64], confidence: float) -> NDArray[np.bool_]:
    """Return where the t interval over the rounds holds zero; nowhere below three rounds."""
    import numpy as np

    rounds = logs_RX.shape[0]
    if rounds < FEWEST_ROUNDS:
        return np.zeros(logs_RX.shape[1], dtype=np.bool_)
    half_X = t_quantile((1 + confidence) / 2, rounds - 1) * logs_RX.std(axis=0, ddof=1) / math.sqrt(rounds)
    held: NDArray[np.bool_] = np.abs(logs_RX.mean(axis=0)) <= half_X
    return held


def _ends(
    logs_RB: NDArray[np.float64], batches: Sequence[int], at: float, confidence: float
) -> tuple[float | None, float | None]:
    """Return the ends of the run of batches around `at` (log2) that hold zero; None where it leaves the measured."""
    import numpy as np

    log2_B = np.log2(np.asarray(batches, dtype=np.float64))
    places = [np.linspace(a, b, _PLACES, endpoint=False) for a, b in pairwise(log2_B)]
    x = np.unique(np.concatenate([*places, log2_B[-1:], [at]]))
    curves_RX = np.stack([np.interp(x, log2_B, row) for row in logs_RB])
    outside = ~_holding_zero(curves_RX, confidence)
    own = int(np.searchsorted(x, at))
    outside[own] = False  # there the mean is zero but for rounding
    below, above = np.flatnonzero(outside[:own]), np.flatnonzero(outside[own:])
    low = float(2.0 ** x[below[-1] + 1]) if len(below) else None
    high = float(2.0 ** x[own + above[0] - 1]) if len(above) else None
    return low, high
