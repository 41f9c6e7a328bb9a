"""How probable it is that a row is on the Pareto front: that no other row's true figures are better in all.

Of the draws of `joint` the share in which no other row is at least as good in every metric and better in one. It
describes; whether a row is shown to be beaten is another question, which tests decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from efficientllm.stats.joint import Joint
from efficientllm.stats.paired import direction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def probability_front(drawn: Joint, better: Mapping[str, str]) -> dict[str, float]:
    """Return row -> probability of being beaten by none; unlike those of being best they do not sum to 1.

    Args:
        drawn: from `joint`; the front is made of all its metrics.
        better: metric -> `low` or `high`.

    >>> from efficientllm.stats.joint import joint
    >>> times = {"fast": {0: 1.0, 1: 1.1, 2: 1.0}, "good": {0: 2.0, 1: 2.1, 2: 2.0}, "poor": {0: 3.0, 1: 3.1, 2: 3.1}}
    >>> errors = {"fast": {0: 5.0, 1: 5.1, 2: 5.0}, "good": {0: 1.0, 1: 1.1, 2: 1.1}, "poor": {0: 9.0, 1: 8.9, 2: 9.1}}
    >>> found = probability_front(joint({"time": times, "error": errors}), {"time": "low", "error": "low"})
    >>> {name: round(share, 1) for name, share in found.items()}
    {'fast': 1.0, 'good': 1.0, 'poor': 0.0}
    """
    import numpy as np

    signs = np.array([direction(better[metric]) for metric in drawn.metrics], dtype=np.float64)
    gains_MDR = drawn.values * signs[:, None, None]
    undominated_R = 1.0 - np.array([_dominated(gains_MDR, row).mean() for row in range(len(drawn.rows))])
    return dict(zip(drawn.rows, undominated_R.tolist(), strict=True))


def probability_highest(scores_DR: NDArray[np.float64], rows: Sequence[str]) -> dict[str, float]:
    """Return how often each row's drawn score is the highest; rows that share it share the draw."""
    import numpy as np

    highest_DR = np.isclose(scores_DR, scores_DR.max(axis=1, keepdims=True), rtol=1e-12, atol=0)
    shares_R = (highest_DR / highest_DR.sum(axis=1, keepdims=True)).mean(axis=0)
    return dict(zip(rows, shares_R.tolist(), strict=True))


def _dominated(gains_MDR: NDArray[np.float64], row: int) -> NDArray[np.bool_]:
    """Return in which draws some other row is no worse anywhere and better somewhere."""
    import numpy as np

    own_MD1 = gains_MDR[:, :, row, None]
    never_worse_DR = (gains_MDR >= own_MD1).all(axis=0)
    better_DR = (gains_MDR > own_MD1).any(axis=0)
    return np.asarray(np.any(never_worse_DR & better_DR, axis=1))
