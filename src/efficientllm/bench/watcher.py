"""Who is told how a study goes on: what it must be able to hear."""

from __future__ import annotations

from typing import Protocol

from efficientllm.records.events import Progress
from efficientllm.records.measurement import Measurement
from efficientllm.records.trial import Trial


class Watcher(Protocol):
    """Who is told how a study goes on."""

    def note(self, text: str) -> None:
        """Something is done that is no trial (data, calibration)."""
        ...

    def trial(self, index: int, total: int, trial: Trial) -> None:
        """A trial begins."""
        ...

    def progress(self, progress: Progress) -> None:
        """The present trial has come so far."""
        ...

    def ended(self, measurement: Measurement, *, stored_before: bool) -> None:
        """A trial is done, now or in an earlier run."""
        ...
