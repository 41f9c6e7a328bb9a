"""What a person (or a program) sees while a study runs."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from efficientllm.records.events import Progress
from efficientllm.records.measurement import Measurement
from efficientllm.records.trial import Trial
from efficientllm.units import percent_text, seconds_text

if TYPE_CHECKING:
    from rich.console import Console

_SIGNS = {"ok": "✓", "interrupted": "‖"}


class RichWatcher:
    """A bar for the study and one for the present trial; a line for each trial that is done.

    Where the output is no terminal there are only the lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        self._console = console or Console(highlight=False)
        name = Column(min_width=24, max_width=32, no_wrap=True, overflow="ellipsis")
        self._bars = Bars(
            TextColumn("{task.description}", table_column=name),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[done]}", justify="right"),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._study = self._bars.add_task("study", total=None, note="", done="")
        self._trial = self._bars.add_task("", total=None, note="", done="", visible=False)
        self._began_s = time.perf_counter()
        self._label = ""

    def __enter__(self) -> RichWatcher:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bars away."""
        self._bars.stop()

    def note(self, text: str) -> None:
        """Say what is done that is no trial."""
        self._console.print(f"[dim]· {text}[/dim]", soft_wrap=True)
        self._bars.reset(self._trial, description=text, total=None, note="", done="", visible=True)

    def trial(self, index: int, total: int, trial: Trial) -> None:
        """Show that a trial begins."""
        self._label = f"{trial.stage} {trial.technique()} #{trial.repeat + 1}"
        self._began_s = time.perf_counter()
        self._bars.update(self._study, total=total, completed=index, done=f"{index}/{total}")
        self._bars.reset(self._trial, description=self._label, total=None, note="", done="", visible=True)

    def progress(self, progress: Progress) -> None:
        """Move the present trial's bar."""
        total = progress.total or None
        done = percent_text(min(1.0, progress.done / total), 2) if total else ""
        self._bars.update(self._trial, completed=progress.done, total=total, note=progress.note, done=done)

    def ended(self, measurement: Measurement, *, stored_before: bool) -> None:
        """Print the trial's line."""
        took = "stored before" if stored_before else seconds_text(time.perf_counter() - self._began_s)
        sign = _SIGNS.get(measurement.outcome, "✗")
        why = "" if measurement.outcome == "ok" else f"{measurement.outcome}: {measurement.reason}"
        self._console.print(f"{sign} {self._label:<32} {took:<14} {why}", soft_wrap=True, markup=False)
        self._bars.advance(self._study)


class JsonWatcher:
    """One JSON line for each trial that is done."""

    def __enter__(self) -> JsonWatcher:
        """Do nothing: lines need no frame."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Say nothing: only results go to a program."""

    def trial(self, index: int, total: int, trial: Trial) -> None:
        """Say nothing yet."""

    def progress(self, progress: Progress) -> None:
        """Say nothing yet."""

    def ended(self, measurement: Measurement, *, stored_before: bool) -> None:
        """Print the measurement's outcome."""
        import msgspec

        trial = measurement.trial
        line = {
            "measurement": measurement.id,
            "stage": trial.stage,
            "axes": trial.axes,
            "repeat": trial.repeat,
            "outcome": measurement.outcome,
            "reason": measurement.reason,
            "stored_before": stored_before,
        }
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()
