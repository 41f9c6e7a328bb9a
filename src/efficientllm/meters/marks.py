"""The half of the meters inside the measured process: windows, steps, allocator peaks, as events in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from efficientllm.devices._contract import Device, SensorError
from efficientllm.errors import Unsupported
from efficientllm.records import events
from efficientllm.records.card import Card
from efficientllm.records.measurement import Ceilings, DataFacts, ModelFacts
from efficientllm.records.protocol import Protocol
from efficientllm.records.window import Caution, Work
from efficientllm.stats.steady import SteadyRule
from efficientllm.stats.stopping import WindowRule

#: Events go to the file at most so often while a window is open; writing stays outside the timed steps.
_FLUSH_S = 1.0
_PROGRESS_S = 0.2


@dataclass
class _Growing:
    """A series that grows; what was written already is dropped."""

    unit: str
    source: str
    at_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class OpenMarks:
    """A window being measured; see `workloads._contract.OpenWindow`."""

    def __init__(self, marks: Marks, index: int, rule: WindowRule | None) -> None:
        self._marks, self._index, self._rule = marks, index, rule
        self._series: dict[str, _Growing] = {"step_s": _Growing("s", "time.perf_counter")}
        self._flushed_at_s = time.perf_counter()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time what is inside, from synchronised edge to synchronised edge."""
        device, steps = self._marks.device, self._series["step_s"]
        device.synchronize()
        begin_s = time.perf_counter()
        yield
        device.synchronize()
        end_s = time.perf_counter()
        steps.at_s.append(end_s)
        steps.values.append(end_s - begin_s)
        if self._rule:
            self._rule.add(end_s - begin_s)

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


class Marks:
    """Takes down what a workload does; see `workloads._contract.Recorder`."""

    def __init__(self, file: Path, device: Device, protocol: Protocol) -> None:
        self.device, self.protocol = device, protocol
        self._file = file.open("ab")
        self._num_windows = 0
        self._progress_at_s = 0.0
        self._attempt_open = False

    def say(self, event: events.AnyEvent) -> None:
        """Add an event; it reaches the file with the next flush."""
        self._file.write(events.encode_event(event))

    def flush(self) -> None:
        """Hand what was said to the operating system, so that it survives this process."""
        self._file.flush()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of start-up or tear-down."""
        begin_s = time.perf_counter()
        yield
        self.say(events.Phase(name=name, elapsed_s=time.perf_counter() - begin_s))
        self.flush()

    def warm_up(self, step: Callable[[], object], *, max_steps: int | None = None) -> int:
        """Call `step` until its time is steady: at least the protocol's steps, at most its seconds or `max_steps`."""
        begin_s, taken = time.perf_counter(), 0
        rule = SteadyRule(self.protocol.warmup_steps, self.protocol.warmup_max_s)
        while rule.unfinished() and (max_steps is None or taken < max_steps):
            step_begin_s = time.perf_counter()
            step()
            self.device.synchronize()
            rule.add(time.perf_counter() - step_begin_s)
            taken += 1
        if not rule.steady:
            self.caution("unsteady", f"step time had not become steady after {taken} warm-up steps")
        self.say(events.Phase(name="warmup", elapsed_s=time.perf_counter() - begin_s))
        return taken

    @contextmanager
    def attempt(self, name: str, coordinates: dict[str, int]) -> Iterator[None]:
        """One point of a grid: what it cannot have (memory, positions) ends this point, not the trial."""
        windows_before = self._num_windows
        try:
            yield
        except Exception as error:
            out_of_memory = self.device.is_out_of_memory(error)
            if not out_of_memory and not isinstance(error, Unsupported):
                raise
            self.device.empty_cache()
            if self._num_windows == windows_before:  # it ended before its window was opened: in allocation or warm-up
                self._open(name, Work(), coordinates)
                outcome, reason = ("oom", _first_line(error)) if out_of_memory else ("unsupported", str(error))
                self._close(self._num_windows - 1, outcome, reason)

    @contextmanager
    def window(
        self, name: str, *, work: Work, coordinates: dict[str, int] | None = None, adaptive: bool = True
    ) -> Iterator[OpenMarks]:
        """Open a measured window; how it ends is written whatever happens inside."""
        self.device.reset_peak_memory()
        index = self._open(name, work, coordinates or {})
        window = OpenMarks(self, index, self._rule() if adaptive else None)
        outcome, reason = "ok", ""
        try:
            yield window
        except BaseException as error:
            outcome = "oom" if self.device.is_out_of_memory(error) else getattr(error, "outcome", "crashed")
            outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else outcome
            reason = _first_line(error)
            raise
        finally:
            window.flush()
            if outcome == "ok":
                self.device.synchronize()
                for key, value in self.device.allocator_figures().items():
                    self.say(events.Figure(name=key, value=value, window=index))
            self._close(index, outcome, reason)

    def baseline_memory(self) -> None:
        """Note what the process holds now, before the model is built."""
        try:
            self.figure("memory_baseline_bytes", self.device.process_memory_bytes())
        except SensorError as error:
            self.say(events.Missing(name="memory_baseline_bytes", reason=str(error)))

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell the person how far the trial is, a few times a second at most."""
        now_s = time.perf_counter()
        if now_s - self._progress_at_s > _PROGRESS_S or done >= total:
            self.say(events.Progress(done=done, total=total, note=note))
            self.flush()
            self._progress_at_s = now_s

    def model(self, facts: ModelFacts) -> None:
        """Set the model's counts."""
        self.say(events.Facts(model=facts))

    def data(self, facts: DataFacts) -> None:
        """Set the text's identity."""
        self.say(events.Facts(data=facts))

    def ceilings(self, ceilings: Ceilings) -> None:
        """Set what the device reaches at most."""
        self.say(events.Facts(ceilings=ceilings))

    def card(self, slot: str, card: Card) -> None:
        """Copy a technique's card into the record."""
        self.say(events.Facts(cards={slot: card}))

    def figure(self, name: str, value: float) -> None:
        """Set a single number of the trial."""
        self.say(events.Figure(name=name, value=value))

    def absent(self, name: str, reason: str) -> None:
        """Say why a quantity is not measured anywhere in the trial."""
        self.say(events.Missing(name=name, reason=reason))

    def caution(self, code: str, text: str) -> None:
        """Tell the reader of something."""
        self.say(events.Facts(cautions=(Caution(code=code, text=text),)))

    def close(self) -> None:
        """Write all and close the file."""
        self._file.close()

    def _open(self, name: str, work: Work, coordinates: dict[str, int]) -> int:
        index = self._num_windows
        self._num_windows += 1
        now_s = time.perf_counter()
        self.say(events.Opened(window=index, name=name, at_s=now_s, work=work, coordinates=coordinates))
        return index

    def _close(self, index: int, outcome: str, reason: str) -> None:
        self.say(events.Closed(window=index, at_s=time.perf_counter(), outcome=outcome, reason=reason))
        self.flush()

    def _rule(self) -> WindowRule:
        protocol = self.protocol
        return WindowRule(protocol.min_window_s, protocol.max_window_s, protocol.target_half_width)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
