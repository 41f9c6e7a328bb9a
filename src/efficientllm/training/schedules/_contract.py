"""What a schedule is: which share of the peak rate is left, as a function of how far the run is after its rise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from efficientllm.records.card import Card


@dataclass(frozen=True)
class ScheduleEntry:
    """A schedule's entry.

    Attributes:
        card: where it is from.
        share: `share(progress, final_ratio, **options)`: the part of the peak rate at `progress`, which goes from 0 at
            the end of the rise to 1 after the last step; it falls from 1 to `final_ratio`. Its keyword parameters
            are the options a recipe can set.
    """

    card: Card
    share: Callable[..., float]


def learning_rate(
    share: Callable[[float], float], peak: float, warmup_ratio: float, step: int, num_steps: int
) -> float:
    """Return the rate of a step (from 0): a linear rise to the peak, then what the schedule leaves of it.

    >>> [round(learning_rate(lambda progress: 1 - progress, 1.0, 0.2, step, 10), 3) for step in (0, 1, 2, 6)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = max(1, round(warmup_ratio * num_steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * share((step - rise) / max(1, num_steps - rise))
