"""The half of the meters inside the measured process: windows, steps, allocator peaks, as events in a file."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from efficientllm.devices._contract import Device, SensorError
from efficientllm.errors import Unsupported
from efficientllm.meters.open_window import OpenMarks
from efficientllm.records import events
from efficientllm.records.card import Card
from efficientllm.records.measurement import Ceilings, DataFacts, ModelFacts
from efficientllm.records.protocol import Protocol
from efficientllm.records.window import Caution, Work
from efficientllm.stats.steady import SteadyRule
from efficientllm.stats.stopping import WindowRule

_PROGRESS_S = 0.2


class Marks:
    """Takes down what a workload does; see `workloads._contract.Recorder`."""

    def __init__(self, file: Path, device: Device, protocol: Protocol, *, alone: bool = True) -> None:
        self.device, self.protocol, self._alone = device, protocol, alone
        #: Makes one number of what several ranks have, so that all of them take the same number of warm-up steps.
        self.agree: Callable[[float], float] = lambda own: own
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

    def warm_up(
        self,
        step: Callable[[], object],
        *,
        max_steps: int | None = None,
        after: Callable[[], object] | None = None,
    ) -> int:
        """Call `step` until its time is steady: at least the protocol's steps, at most its seconds or `max_steps`."""
        begin_s, taken = time.perf_counter(), 0
        rule = SteadyRule(self.protocol.warmup_steps, self.protocol.warmup_max_s)
        while rule.unfinished() and (max_steps is None or taken < max_steps):
            step_begin_s = time.perf_counter()
            step()
            self.device.synchronize()
            rule.add(self.agree(time.perf_counter() - step_begin_s))
            taken += 1
            if after is not None:
                after()
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
            if (not out_of_memory and not isinstance(error, Unsupported)) or not self._alone:
                raise  # other ranks wait inside for this one, and cannot go on either
            traceback.clear_frames(error.__traceback__)  # what failed still holds its tensors
            if self._num_windows == windows_before:  # it ended before its window was opened: in allocation or warm-up
                self._open(name, Work(), coordinates)
                outcome, reason = ("oom", _first_line(error)) if out_of_memory else ("unsupported", str(error))
                self._close(self._num_windows - 1, outcome, reason)
            self.device.empty_cache()

    @contextmanager
    def window(
        self, name: str, *, work: Work, coordinates: dict[str, int] | None = None, adaptive: bool = True
    ) -> Iterator[OpenMarks]:
        """Open a measured window; how it ends is written whatever happens inside."""
        self.device.reset_peak_memory()
        index = self._open(name, work, coordinates or {})
        window = OpenMarks(self, index, self.rule() if adaptive else None)
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

    def watch(self, pid: int) -> None:
        """Have one more process watched from now on."""
        self.say(events.Begun(pid=pid))
        self.flush()

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

    def rule(self) -> WindowRule:
        """Return the protocol's rule for the end of an adaptive window."""
        protocol = self.protocol
        return WindowRule(protocol.min_window_s, protocol.max_window_s, protocol.target_half_width)

    def _open(self, name: str, work: Work, coordinates: dict[str, int]) -> int:
        index = self._num_windows
        self._num_windows += 1
        now_s = time.perf_counter()
        self.say(events.Opened(window=index, name=name, at_s=now_s, work=work, coordinates=coordinates))
        return index

    def _close(self, index: int, outcome: str, reason: str) -> None:
        self.say(events.Closed(window=index, at_s=time.perf_counter(), outcome=outcome, reason=reason))
        self.flush()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
