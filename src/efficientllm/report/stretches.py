"""What the meters said over the windows of a trial: joined where windows overlap, apart where nothing was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from efficientllm.records.window import Window
from efficientllm.report.thinning import extremes

#: Lines in one panel; values are stored in so many steps of their greatest.
_MOST_LINES, _STEPS = 8, 9999


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a chart: values are `scale` times whole numbers, times in ms from the timeline's begin.

    Attributes:
        text: rank and device, empty where there is one.
        starts: indices at which the line begins anew, for nothing was read between.
    """

    text: str
    at: list[int]
    values: list[int]
    scale: float
    starts: list[int]


@dataclass
class Stretch:
    """What one meter said, without a pause."""

    rank: int
    device: int
    source: str
    at_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def spans(windows: Sequence[Window]) -> list[tuple[float, float]]:
    """Return when any window was open, ascending.

    >>> spans([Window(name="curve", begin_s=1, end_s=5), Window(name="train", begin_s=2, end_s=5),
    ...        Window(name="quality", begin_s=6, end_s=7)])
    [(1, 5), (6, 7)]
    """
    found: list[tuple[float, float]] = []
    for window in sorted(windows, key=lambda window: window.begin_s):
        if found and window.begin_s <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], window.end_s))
        else:
            found.append((window.begin_s, window.end_s))
    return found


def stretches(windows: Sequence[Window], places: Sequence[tuple[float, float]], names: Sequence[str]) -> list[Stretch]:
    """Return what the meters said of a quantity, span by span; what two windows hold is taken once.

    Args:
        windows: of a trial.
        places: from `spans`.
        names: of the quantity; the first that any window holds is taken.
    """
    name = next((name for name in names if any(s.name == name for w in windows for s in w.series)), "")
    found: list[Stretch] = []
    for begin_s, end_s in places:
        inside = [series for window in windows if begin_s <= window.begin_s < end_s for series in window.series]
        series = [each for each in inside if each.name == name and each.values]
        for rank, device in dict.fromkeys((each.rank, each.device) for each in series):
            own = [each for each in series if (each.rank, each.device) == (rank, device)]
            told = sorted({at: value for each in own for at, value in zip(each.at_s, each.values, strict=True)}.items())
            found.append(Stretch(rank, device, own[0].source, [at for at, _ in told], [value for _, value in told]))
    return found


def drawn(found: Sequence[Stretch], begin_s: float, points: int) -> tuple[Line, ...]:
    """Return a line for each rank and device, all together of about so many points."""
    owners = list(dict.fromkeys((stretch.rank, stretch.device) for stretch in found))[:_MOST_LINES]
    many = sum(len(stretch.at_s) for stretch in found)
    lines = []
    for rank, device in owners:
        own = [stretch for stretch in found if (stretch.rank, stretch.device) == (rank, device)]
        text = f"rank {rank}, device {device}" if len(owners) > 1 else ""
        lines.append(_line(own, text, begin_s, points / max(many, points)))
    return tuple(lines)


def _line(own: Sequence[Stretch], text: str, begin_s: float, share: float) -> Line:
    at: list[int] = []
    values: list[float] = []
    starts: list[int] = []
    for stretch in own:
        starts.append(len(at))
        kept = extremes(stretch.values, int(share * len(stretch.values)))
        at += [round(1e3 * (stretch.at_s[i] - begin_s)) for i in kept]
        values += [stretch.values[i] for i in kept]
    scale = max((abs(value) for value in values), default=0.0) / _STEPS or 1.0
    return Line(text=text, at=at, values=[round(value / scale) for value in values], scale=scale, starts=starts)
