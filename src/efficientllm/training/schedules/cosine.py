"""Half a cosine from the peak to the final rate."""

from __future__ import annotations

import math

from efficientllm.records.card import Card
from efficientllm.training.schedules._contract import ScheduleEntry


def share(progress: float, final_ratio: float) -> float:
    """Return the part of the peak rate that is left.

    >>> [round(share(progress, 0.1), 3) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.55, 0.1]
    """
    return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


ENTRY = ScheduleEntry(card=Card(title="Cosine schedule", source="arXiv:1608.03983", improves=("quality",)), share=share)
