"""Sums over a span of a sampled series: means, integrals and differences, with the edges cut exactly."""

from __future__ import annotations

import bisect

import msgspec

from efficientllm.records.series import Series


class NotCovered(ValueError):
    """The readings do not cover the span; `str()` of it is the reason."""


def cut(series: Series, begin_s: float, end_s: float) -> Series:
    """Return the readings inside [begin, end].

    >>> power = Series(name="power_w", unit="w", at_s=(0.0, 1.0, 2.0), values=(10.0, 20.0, 30.0))
    >>> cut(power, 0.5, 2.0).values
    (20.0, 30.0)
    """
    first, last = bisect.bisect_left(series.at_s, begin_s), bisect.bisect_right(series.at_s, end_s)
    return msgspec.structs.replace(series, at_s=series.at_s[first:last], values=series.values[first:last])


def value_at(series: Series, at_s: float) -> float:
    """Return the value at a time, on the line between its neighbours; outside the readings the nearest one.

    >>> power = Series(name="power_w", unit="w", at_s=(0.0, 1.0), values=(10.0, 20.0))
    >>> value_at(power, 0.25), value_at(power, 9.0)
    (12.5, 20.0)
    """
    after = bisect.bisect_right(series.at_s, at_s)
    if after == 0:
        return series.values[0]
    if after == len(series.at_s):
        return series.values[-1]
    left_s, right_s = series.at_s[after - 1], series.at_s[after]
    left, right = series.values[after - 1], series.values[after]
    return left + (right - left) * (at_s - left_s) / (right_s - left_s)


def integral(series: Series, begin_s: float, end_s: float) -> float:
    """Return the integral over [begin, end] by trapezoids, in the series' unit times seconds.

    Raises:
        NotCovered: the readings leave more than a tenth of the span uncovered.

    >>> power = Series(name="power_w", unit="w", at_s=(0.0, 1.0, 2.0), values=(10.0, 20.0, 20.0))
    >>> integral(power, 0.5, 2.0)
    28.75
    """
    _require_cover(series, begin_s, end_s)
    inside = cut(series, begin_s, end_s)
    at_s = (begin_s, *inside.at_s, end_s)
    values = (value_at(series, begin_s), *inside.values, value_at(series, end_s))
    return sum((at_s[i + 1] - at_s[i]) * (values[i + 1] + values[i]) / 2 for i in range(len(at_s) - 1))


def mean(series: Series, begin_s: float, end_s: float) -> float:
    """Return the time-weighted mean over [begin, end]; see `integral`."""
    return integral(series, begin_s, end_s) / (end_s - begin_s)


def difference(series: Series, begin_s: float, end_s: float) -> float:
    """Return how much a growing series grew over [begin, end].

    Raises:
        NotCovered: the readings leave more than a tenth of the span uncovered.
    """
    _require_cover(series, begin_s, end_s)
    return value_at(series, end_s) - value_at(series, begin_s)


def _require_cover(series: Series, begin_s: float, end_s: float) -> None:
    if not series.at_s:
        raise NotCovered("nothing was read")
    if end_s <= begin_s:
        raise NotCovered("the window has no length")
    covered_s = min(series.at_s[-1], end_s) - max(series.at_s[0], begin_s)
    if covered_s < 0.9 * (end_s - begin_s):
        raise NotCovered(f"readings cover {max(0.0, covered_s):.3g} s of the window's {end_s - begin_s:.3g} s")
