"""A run that can be stopped at any instant: it saves checkpoints, and goes on from the newest where there is one."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from efficientllm.errors import ResultsError
from efficientllm.records.measurement import DataFacts
from efficientllm.training.checkpoint import Checkpoints, State
from efficientllm.training.curve_log import CurveLog
from efficientllm.training.loop import TrainLoop
from efficientllm.units import seconds_text
from efficientllm.workloads._contract import Job, OpenWindow

#: What else a run of instructions depends on: word -> detail of its text.
_OF_INSTRUCTIONS = {"instructions": "samples_sha256", "chat template": "chat_template_sha256"}


class Resuming:
    """The checkpoints of a run, as its workload sees them; without a folder for them every method does nothing.

    Args:
        job: the run.
        loop: a loop that has taken no step; it is put where the newest checkpoint was.
        text: identity of all that it reads.
    """

    def __init__(self, job: Job, loop: TrainLoop, text: DataFacts) -> None:
        self._recorder, self._loop, self._log = job.recorder, loop, CurveLog()
        self._every = loop.settings.checkpoint_every
        self._checkpoints: Checkpoints | None = None
        self._num_saved, self._spent_s = 0, 0.0
        if self._every and job.checkpoints:
            origin = {
                "trial": job.trial.id,
                "environment": job.environment,
                "corpus": text.corpus_sha256,
                "tokenizer": text.tokenizer_sha256,
                **{word: text.details[key] for word, key in _OF_INSTRUCTIONS.items() if key in text.details},
            }
            self._checkpoints = Checkpoints(job.checkpoints, origin)
            with job.recorder.phase("resume"):
                self._go_on(self._checkpoints)
        self._last = loop.steps_done

    def kept(self, curve: OpenWindow) -> OpenWindow:
        """Return the window with a memory; what was said of earlier steps is said again, with the times of now."""
        if self._checkpoints is None:
            return curve
        for name, unit, value in self._log:
            curve.value(name, unit, value)
        return _Remembered(curve, self._log)

    def save_if_due(self) -> None:
        """Save a checkpoint between two steps, if one is due; a disk that cannot take it does not end the run."""
        loop, checkpoints = self._loop, self._checkpoints
        if checkpoints is None or not loop.steps_left or loop.steps_done // self._every <= self._last // self._every:
            return
        self._last = loop.steps_done
        begin_s = time.perf_counter()
        try:
            state = checkpoints.save(loop, self._log)
        except ResultsError as error:
            self._checkpoints = None
            self._recorder.caution("no_checkpoint", f"{error}. The run went on without further ones")
            return
        self._num_saved += 1
        self._spent_s += time.perf_counter() - begin_s
        self._tell(state)

    def tell_cost(self) -> None:
        """Say what saving took, beside the steps that were measured."""
        if self._num_saved:
            self._recorder.caution(
                "checkpoints",
                f"saving {self._num_saved} checkpoint(s) took {seconds_text(self._spent_s)}: step times leave it out, "
                "the energy of the measured segment and the curve over time do not",
            )

    def _tell(self, state: State) -> None:
        self._recorder.figure("num_checkpoints", self._num_saved)
        self._recorder.figure("checkpoint_s", self._spent_s / self._num_saved)
        self._recorder.figure("checkpoint_bytes", state.num_bytes)

    def _go_on(self, checkpoints: Checkpoints) -> None:
        found = checkpoints.find()
        if found.refused:
            how = f"went on from step {found.state.step}" if found.state else "began anew"
            self._recorder.caution("checkpoint_refused", f"{'; '.join(found.refused)}; the run {how}")
        if found.state is None:
            return
        checkpoints.load(found.state, self._loop, self._log)
        self._recorder.figure("resumed_step", found.state.step)
        self._recorder.caution(
            "resumed",
            f"went on at step {found.state.step} from a checkpoint; the losses are those of the whole run, step times "
            f"and energy those of the {self._loop.steps_left} steps since",
        )


class _Remembered:
    """A window whose values are kept for the next checkpoint."""

    def __init__(self, window: OpenWindow, log: CurveLog) -> None:
        self._window, self._log = window, log

    def step(self) -> AbstractContextManager[None]:
        """Time a step."""
        return self._window.step()

    def unfinished(self) -> bool:
        """Whether more steps are wanted."""
        return self._window.unfinished()

    def value(self, name: str, unit: str, value: float) -> None:
        """Append to a series, and remember it."""
        self._log.add(name, unit, value)
        self._window.value(name, unit, value)

    def figure(self, name: str, value: float) -> None:
        """Set a single number."""
        self._window.figure(name, value)

    def absent(self, name: str, reason: str) -> None:
        """Say why a quantity is not measured."""
        self._window.absent(name, reason)
