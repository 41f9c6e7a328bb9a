"""Warm-up, stable, decay: the peak rate until shortly before the end, then a fall along 1 - √x."""

from __future__ import annotations

import math

from efficientllm.errors import UserError
from efficientllm.records.card import Card
from efficientllm.training.schedules._contract import ScheduleEntry


def share(progress: float, final_ratio: float, decay_ratio: float = 0.2) -> float:
    """Return the part of the peak rate that is left; the last `decay_ratio` of the way is the fall.

    The form of the fall is that of arXiv:2405.18392.

    >>> [round(share(progress, 0.0), 3) for progress in (0.0, 0.8, 0.85, 1.0)]
    [1.0, 1.0, 0.5, 0.0]

    Raises:
        UserError: no fall, or one longer than the way.
    """
    if isinstance(decay_ratio, bool) or not isinstance(decay_ratio, int | float) or not 0 < decay_ratio <= 1:
        raise UserError(f"option decay_ratio of schedule wsd is {decay_ratio!r}. Give a number above 0, up to 1.")
    fallen = max(0.0, progress - (1 - decay_ratio)) / decay_ratio
    return final_ratio + (1 - final_ratio) * (1 - math.sqrt(min(1.0, fallen)))


ENTRY = ScheduleEntry(
    card=Card(
        title="Warm-up, stable, decay",
        source="arXiv:2404.06395",
        improves=("quality",),
        note="against a cosine: the run can be made longer from any checkpoint before the fall",
    ),
    share=share,
)
