"""Between which values a figure must lie, given the series inside its window and not those just outside it.

A meter reads a window's edges on the line between a reading inside and one outside; only those inside are stored. So a
mean, an integral or a growth follows from the stored series to within what the two edges can add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.records.series import Series
from efficientllm.records.window import Window

#: Relative error of sums that were added in another order, and of times that are stored to a microsecond.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A closed range, in the figure's unit."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value lies inside, rounding aside.

        >>> Bounds(low=1.0, high=2.0).holds(2.0000001), Bounds(low=1.0, high=2.0).holds(2.1)
        (True, False)
        """
        slack = _ROUNDING * max(abs(self.low), abs(self.high), abs(value))
        return self.low - slack <= value <= self.high + slack

    def text(self) -> str:
        """Return the range as a sentence takes it."""
        if abs(self.high - self.low) <= _ROUNDING * max(abs(self.low), abs(self.high)):
            return f"{self.low:.6g}"
        return f"{self.low:.6g} to {self.high:.6g}"


def exactly(value: float, relative: float = 0.0) -> Bounds:
    """Return the range of one value."""
    return Bounds(low=value - abs(value) * relative, high=value + abs(value) * relative)


def integral(series: Series, window: Window, most: float) -> Bounds:
    """Return the bounds of a non-negative series' integral over its window, if it was never above `most`.

    >>> power = Series(name="power_w", unit="w", at_s=(1.0, 3.0), values=(10.0, 10.0))
    >>> integral(power, Window(name="train", begin_s=0.0, end_s=4.0), most=20.0)
    Bounds(low=30.0, high=50.0)
    """
    at_s, values = series.at_s, series.values
    inside = sum((at_s[i + 1] - at_s[i]) * (values[i] + values[i + 1]) / 2 for i in range(len(values) - 1))
    before_s, after_s = max(0.0, at_s[0] - window.begin_s), max(0.0, window.end_s - at_s[-1])
    known = inside + before_s * values[0] / 2 + after_s * values[-1] / 2
    return Bounds(low=known, high=known + (before_s + after_s) * most / 2)


def growth(series: Series, window: Window, most_per_s: float) -> Bounds:
    """Return the bounds of how much a growing series grew over its window, if never faster than `most_per_s`."""
    grown = series.values[-1] - series.values[0]
    outside_s = max(0.0, series.at_s[0] - window.begin_s) + max(0.0, window.end_s - series.at_s[-1])
    return Bounds(low=grown, high=grown + outside_s * most_per_s)


def of_all(name: str, parts: Sequence[Bounds]) -> Bounds:
    """Return the bounds of one figure of several devices: power adds up, memory is the fullest's, the rest a mean."""
    lows, highs = [part.low for part in parts], [part.high for part in parts]
    if len(parts) == 1:
        return parts[0]
    if name.endswith(("_j", "_w")):
        return Bounds(low=sum(lows), high=sum(highs))
    if "_low_" in name:
        return Bounds(low=min(lows), high=min(highs))
    if name.endswith("_bytes") or "_peak" in name or name.endswith("_s"):
        return Bounds(low=max(lows), high=max(highs))
    return Bounds(low=sum(lows) / len(parts), high=sum(highs) / len(parts))
