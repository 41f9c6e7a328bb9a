"""Series made short enough for a page; what sticks out stays."""

from __future__ import annotations

from collections.abc import Sequence


def extremes(values: Sequence[float], number: int) -> list[int]:
    """Return the indices of at most about `number` values that draw the same outline, ascending.

    The values are parted into runs of equal length, and of each run its least and its greatest stay: no peak and no
    dip is lost, as it would be with means or with every n-th value. The first and the last stay as well.

    >>> extremes([1.0, 1.0, 9.0, 1.0, 1.0, 1.0, -5.0, 1.0], 4)
    [0, 2, 6, 7]
    >>> extremes([3.0, 1.0], 300)
    [0, 1]
    """
    many = len(values)
    if many <= max(2, number):
        return list(range(many))
    runs = max(1, number // 2 - 1)
    kept = {0, many - 1}
    for run in range(runs):
        places = range(run * many // runs, (run + 1) * many // runs)
        kept.add(min(places, key=values.__getitem__))
        kept.add(max(places, key=values.__getitem__))
    return sorted(kept)
