"""A study's records as the page's scripts take them: whose they are, and the names of their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from efficientllm.records.measurement import Measurement


def records(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return what the page says of each record, a list a part; `words` holds what many of them share."""
    words: dict[str, int] = {}

    def word(text: str) -> int:
        return words.setdefault(text, len(words))

    first = min((record.started_at for record in measurements if record.started_at), default="")
    return {
        "id": [_parted(record.id, word) for record in measurements],
        "stage": [word(record.trial.stage or record.trial.settings_workload()) for record in measurements],
        "technique": [word(record.trial.technique()) for record in measurements],
        "repeat": [record.trial.repeat for record in measurements],
        "outcome": [word("invalid" if record.invalid_codes else record.outcome) for record in measurements],
        "first": first,
        "started": [_seconds_after(first, record.started_at) for record in measurements],
        "words": list(words),
    }


def _parted(id_: str, word: Callable[[str], int]) -> str | list[str | int]:
    """Return a record's id as trial, number of its environment's word, attempt; ids of another form as they are."""
    trial, *rest = id_.rsplit("-", 2)
    return [trial, word(rest[0]), rest[1]] if len(rest) == 2 else id_


def _seconds_after(first: str, then: str) -> int | str:
    """Return whole seconds between two times, or the second as it is where they are no times.

    >>> _seconds_after("2026-11-03T10:00:00Z", "2026-11-03T10:01:30Z"), _seconds_after("", "yesterday")
    (90, 'yesterday')
    """
    try:
        return round((datetime.fromisoformat(then) - datetime.fromisoformat(first)).total_seconds())
    except (ValueError, TypeError):
        return then
