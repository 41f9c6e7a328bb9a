"""Holm's correction: many comparisons in one table, one error rate for all of them.

Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979). It asks nothing
of how the comparisons depend on each other, and here they do: all share a baseline.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Return the corrected p-values; one that is None was no test and does not count in their number.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    {'a': 0.03, 'b': 0.06, 'c': 0.06, 'd': None}
    """
    tested = sorted((p, order, key) for order, (key, p) in enumerate(p_values.items()) if p is not None)
    corrected: dict[Key, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for place, (p, _, key) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - place)))
        corrected[key] = largest
    return corrected
