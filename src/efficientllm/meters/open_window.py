"""A window while it is open: its steps and series gather here and go to the events' file now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from efficientllm.devices._contract import Device
from efficientllm.records import events
from efficientllm.stats.stopping import WindowRule

#: Events go to the file at most so often while a window is open; writing stays outside the timed steps.
_FLUSH_S = 1.0


class Scribe(Protocol):
    """Who writes the events down: `marks.Marks`."""

    device: Device

    def say(self, event: events.AnyEvent) -> None:
        """Add an event."""
        ...

    def flush(self) -> None:
        """Hand what was said to the operating system."""
        ...


@dataclass
class _Growing:
    """A series that grows; what was written already is dropped."""

    unit: str
    source: str
    at_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class OpenMarks:
    """A window being measured; see `workloads._contract.OpenWindow`."""

    def __init__(self, marks: Scribe, index: int, rule: WindowRule | None) -> None:
        self._marks, self._index, self._rule = marks, index, rule
        self._series: dict[str, _Growing] = {"step_s": _Growing("s", "time.perf_counter")}
        self._flushed_at_s = self._lap_at_s = time.perf_counter()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time what is inside, from synchronised edge to synchronised edge."""
        self._marks.device.synchronize()
        begin_s = time.perf_counter()
        yield
        self._end_step(begin_s)

    def lap(self) -> None:
        """End a step that began where the one before it ended, or where the window was opened."""
        self._end_step(self._lap_at_s)
        self.flush_sometimes()
        self._lap_at_s = time.perf_counter()  # writing is no part of the next step

    def unfinished(self) -> bool:
        """Whether the rule wants more steps; a window without a rule is closed by its workload."""
        self.flush_sometimes()
        return self._rule is None or self._rule.unfinished()

    def value(self, name: str, unit: str, value: float) -> None:
        """Append to a series at the present time."""
        series = self._series.setdefault(name, _Growing(unit, "workload"))
        series.at_s.append(time.perf_counter())
        series.values.append(value)
        self.flush_sometimes()

    def figure(self, name: str, value: float) -> None:
        """Set a single number of the window."""
        self._marks.say(events.Figure(name=name, value=value, window=self._index))

    def absent(self, name: str, reason: str) -> None:
        """Say why a quantity of the window is not measured."""
        self._marks.say(events.Missing(name=name, reason=reason, window=self._index))

    def flush_sometimes(self) -> None:
        """Write what has gathered, if the last time is long enough ago."""
        if time.perf_counter() - self._flushed_at_s > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        for name, series in self._series.items():
            if series.values:
                self._marks.say(
                    events.Values(
                        window=self._index,
                        name=name,
                        unit=series.unit,
                        source=series.source,
                        at_s=tuple(series.at_s),
                        values=tuple(series.values),
                    )
                )
                series.at_s.clear()
                series.values.clear()
        self._marks.flush()
        self._flushed_at_s = time.perf_counter()

    def _end_step(self, begin_s: float) -> None:
        self._marks.device.synchronize()
        end_s = time.perf_counter()
        steps = self._series["step_s"]
        steps.at_s.append(end_s)
        steps.values.append(end_s - begin_s)
        if self._rule:
            self._rule.add(end_s - begin_s)
