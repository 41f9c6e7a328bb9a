"""The peak rate to the end."""

from __future__ import annotations

from efficientllm.records.card import Card
from efficientllm.training.schedules._contract import ScheduleEntry


def share(progress: float, final_ratio: float) -> float:
    """Return 1; `final_lr_ratio` plays no part."""
    return 1.0


ENTRY = ScheduleEntry(card=Card(title="Constant rate", source=""), share=share)
