"""Takes down a training run step by step: losses, what else a step says, looks at held-out text, how far it is."""

from __future__ import annotations

import time

from efficientllm.records.window import Work
from efficientllm.training.evaluate import Evaluation, Rows
from efficientllm.training.loop import TrainLoop
from efficientllm.training.progress import Pace
from efficientllm.units import percent_text
from efficientllm.workloads._contract import Job, OpenWindow


class Curve:
    """The `curve` window of a run, and the person's progress line.

    Series: `loss` and what `TrainLoop.watched` holds, each step; `heldout_loss` with `heldout_step`, the number of
    steps that had been done, each look.
    """

    def __init__(self, job: Job, loop: TrainLoop, rows: Rows | None, work: Work, window: OpenWindow) -> None:
        settings = loop.settings
        self._job, self._loop, self._window = job, loop, window
        self._evaluation = Evaluation(loop.decoder, settings, rows, job.device, loop.autocast)
        peak = job.matmul_peak_flop_per_s * settings.ranks
        self._pace = Pace(work.tokens, loop.num_steps, work.model_flops, peak)

    @property
    def evaluation_s(self) -> float:
        """Time that looks at held-out text have taken."""
        return self._evaluation.elapsed_s

    def note(self, loss: float) -> None:
        """Take down the step that has just ended, and look at held-out text if that is due."""
        self._window.value("loss", "nats/token", loss)
        for (name, unit), value in self._loop.watched.items():
            self._window.value(name, unit, value)
        self._pace.step(self._loop.steps_done, time.perf_counter())
        tokens = self._loop.settings.tokens
        self._job.recorder.progress(self._loop.tokens_seen, tokens, self._pace.note(loss))
        if self._evaluation.due(self._loop.steps_done):
            before_s = self.evaluation_s
            self._window.value("heldout_loss", "nats/token", self._evaluation.loss())
            self._window.value("heldout_step", "count", self._loop.steps_done)
            self._pace.pause(self.evaluation_s - before_s)

    def close(self, evaluation_before_s: float, train_s: float) -> None:
        """Set the figures; say what the looks inside the measured segment have touched.

        Args:
            evaluation_before_s: what the looks before the segment took.
            train_s: length of the segment.
        """
        if not self._evaluation.num_tokens:
            return
        self._job.recorder.figure("evaluation_s", self.evaluation_s)
        self._job.recorder.figure("evaluation_tokens", self._evaluation.num_tokens)
        inside_s = self.evaluation_s - evaluation_before_s
        if inside_s > 0:
            self._job.recorder.caution(
                "evaluated",
                f"looks at held-out text took {percent_text(inside_s / train_s)} of the measured segment: its steps "
                "leave them out, its energy and the curve over time do not",
            )
