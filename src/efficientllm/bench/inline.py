"""Measures a loop of anybody's own code, inside their own process: the same meters, marks, physics and store.

    enter: sampler starts ── warm-up steps ──┬─ step ─ step ─ … ─┬── exit: judged, stored
                                             └─ window `user` ───┘

A process cannot be made fresh from within: the protocol is `inline`, and such records compare only with their kind.
Every run of the script is one more repeat.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

import efficientllm
from efficientllm.bench.assemble import sort_out, start_figures, windows
from efficientllm.bench.ceilings import ceilings_of, stored_calibration
from efficientllm.bench.digest import inline_digest
from efficientllm.bench.job import EVENTS_FILE
from efficientllm.bench.judging import judged
from efficientllm.bench.probe import host_threads, probe_environment
from efficientllm.bench.storing import store
from efficientllm.devices.choose import open_device
from efficientllm.errors import UserError
from efficientllm.meters.external import WallClock, read_meter, with_external
from efficientllm.meters.marks import Marks
from efficientllm.meters.open_window import OpenMarks
from efficientllm.meters.process import SamplerProcess
from efficientllm.records.environment import Environment
from efficientllm.records.events import decode_events
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.protocol import INLINE
from efficientllm.records.settings import UserSettings
from efficientllm.records.trial import Trial, make_trial
from efficientllm.records.window import Work
from efficientllm.store.folder import Study


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What is told of a loop before it runs.

    Attributes:
        settings: its name and number format.
        work: what one of its steps does.
        results, study: where the record goes.
        device: `auto`, `cpu`, `cuda`, `cuda:1` …
        warmup_steps: first steps that are not measured.
        baseline: whether the other loops of the study are compared with this one.
        external: a wall or BMC meter's file.
    """

    settings: UserSettings
    work: Work
    results: Path
    study: str
    device: str
    warmup_steps: int
    baseline: bool
    external: Path | None


class InlineMeasurement:
    """A loop under measurement: a context manager around it, `step` at the end of each iteration.

    Attributes:
        measurement: the record, once the block has ended; None before.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.device = open_device(_present_device(loop.device))
        self.study = Study(loop.results, loop.study)
        self.measurement: Measurement | None = None
        self._steps = 0
        self._stack = ExitStack()
        self._window: OpenMarks | None = None

    def __enter__(self) -> InlineMeasurement:
        """Start the meters; nothing is measured before the warm-up steps are over."""
        self.study.check_writable()
        if self.loop.external is not None:
            read_meter(self.loop.external)
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="efficientllm-")))
        self._begin = WallClock.now()
        self._marks = Marks(self._folder / EVENTS_FILE, self.device, INLINE)
        # the model may be there already: what the process holds is told whole
        self._marks.figure("memory_baseline_bytes", 0.0)
        interval_s = INLINE.sample_interval_s
        self._sampler = SamplerProcess.start(
            self.device, [os.getpid()], interval_s=interval_s, path=self._folder / "samples.txt"
        )
        if self.loop.warmup_steps == 0:
            self._open()
        return self

    def step(self, loss: float | None = None) -> None:
        """End one iteration: wait for the device and take the time.

        Args:
            loss: nats a token of this iteration, kept as a series; reading it off the device is part of the step.
        """
        if self._window is not None:
            if loss is not None:
                self._window.value("loss", "nats/token", float(loss))
            self._window.lap()
        self._steps += 1
        if self._steps == self.loop.warmup_steps:
            self.device.synchronize()
            self._open()

    def unfinished(self) -> bool:
        """Whether the protocol wants more steps: `while m.unfinished(): …; m.step()`, 5 to 30 s beyond the warm-up."""
        return self._window is None or self._window.unfinished()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Judge and store what was seen; an exception ends the loop with an outcome, and goes on upwards."""
        last_s = WallClock.now().perf_s
        if self._window is not None:
            self._opened.__exit__(kind, error, at)
        self._marks.close()
        samples = with_external(self._sampler.stop(), self.loop.external, self._begin)
        told = sort_out(decode_events((self._folder / EVENTS_FILE).read_bytes())[0])
        self._stack.close()
        if error is None and self._steps <= self.loop.warmup_steps:
            raise UserError(
                f"measure({self.loop.settings.name!r}): {self._steps} step(s) ended in the block, no more than the "
                f"{self.loop.warmup_steps} of warm-up. Call m.step() at the end of each iteration, or lower `warmup`."
            )
        outcome, reason = self._outcome(error)
        trial, environment = self._identity()
        seen = windows(told, [samples], self._begin.perf_s, last_s, [])
        attempt = self.study.next_attempt(trial.id, environment.id)
        measurement = Measurement(
            id=f"{trial.id}-{environment.id}-{attempt}",
            trial=trial,
            environment=environment,
            outcome=outcome,
            reason=reason,
            started_at=self._begin.text(),
            software_version=efficientllm.__version__,
            windows=seen,
            ceilings=self._ceilings(),
            figures={**told.figures.get(-1, {}), **start_figures(seen)},
            absent=samples.absent,
            cautions=told.cautions,
        )
        self.measurement = store(self.study, judged(measurement, self.device))

    def _open(self) -> None:
        self._opened = self._marks.window("user", work=self.loop.work)
        self._window = self._opened.__enter__()

    def _outcome(self, error: BaseException | None) -> tuple[str, str]:
        if error is None:
            return "ok", ""
        if isinstance(error, KeyboardInterrupt):
            return "interrupted", "interrupted by the user"
        outcome = "oom" if self.device.is_out_of_memory(error) else "crashed"
        return outcome, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

    def _identity(self) -> tuple[Trial, Environment]:
        """Return the trial, as the first repeat that is not stored yet, and where it ran."""
        digest = inline_digest(self.loop.settings, self.device.kind)
        environment = probe_environment(self.device, digest, _threads())
        repeat = 0
        while self.study.done((trial := self._trial(repeat)).id, environment.id) is not None:
            repeat += 1
        return trial, environment

    def _trial(self, repeat: int) -> Trial:
        return make_trial(
            settings=self.loop.settings,
            protocol=msgspec.structs.replace(INLINE, warmup_steps=self.loop.warmup_steps),
            device=self.device.kind,
            seed=0,
            repeat=repeat,
            stage=self.loop.study,
            axes={"loop": self.loop.settings.name},
            baseline=self.loop.baseline,
        )

    def _ceilings(self) -> Ceilings | None:
        calibration = stored_calibration(self.loop.results, self.device, host_threads())
        return ceilings_of(calibration) if calibration else None


def _present_device(asked: str) -> str:
    """Return the device that torch already works on in this process, where `auto` is asked and there is one."""
    torch = sys.modules.get("torch")
    if asked == "auto" and torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"cuda:{torch.cuda.current_device()}"
    return asked


def _threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else host_threads()
