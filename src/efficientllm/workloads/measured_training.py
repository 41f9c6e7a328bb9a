"""The measured part of a training run: warm-up, then the segment that meters read, to the end of the token budget."""

from __future__ import annotations

import time

from efficientllm.models import expert_load
from efficientllm.models.costs import train_work
from efficientllm.training import communication
from efficientllm.training.choose import state_bytes_on_device
from efficientllm.training.evaluate import Rows
from efficientllm.training.loop import TrainLoop
from efficientllm.workloads._contract import Job
from efficientllm.workloads.curve import Curve
from efficientllm.workloads.memory import tell_held
from efficientllm.workloads.resuming import Resuming

#: At most this part of the token budget goes into warm-up, so that a short run still has a measured segment.
_WARM_UP_SHARE = 0.25


def train(job: Job, loop: TrainLoop, rows: Rows | None, resuming: Resuming) -> None:
    """Take all steps of a loop, in two windows.

    Windows: `curve` (the whole run, see `workloads.curve`), `train` (the measured segment: all steps after warm-up; of
    a model with experts also how evenly they were used).

    Args:
        job: the run.
        loop: at its first step, or where a checkpoint left it.
        rows: of looks at held-out text; None for none.
        resuming: its checkpoints.

    Raises:
        Diverged: the loss became NaN or exploded.
    """
    recorder, settings = job.recorder, loop.settings
    state_bytes = state_bytes_on_device(settings, loop.decoder)
    work = train_work(loop.decoder, settings.rows_per_step, settings.sequence_tokens, state_bytes)
    with recorder.window("curve", work=work, adaptive=False) as curve_window:
        curve, losses = Curve(job, loop, rows, work, resuming.kept(curve_window)), [0.0]

        def step() -> None:
            losses[0] = loop.step()

        def after() -> None:
            curve.note(losses[0])
            resuming.save_if_due()

        recorder.warm_up(step, max_steps=int(_WARM_UP_SHARE * loop.steps_left), after=after)
        tell_held(job, "between_steps_bytes")
        expert_load.reset(loop.decoder)
        begin_s, evaluation_s = time.perf_counter(), curve.evaluation_s
        with recorder.window("train", work=work, adaptive=False) as window:
            while loop.steps_left:
                with window.step():
                    loss = loop.step()
                curve.note(loss)
                resuming.save_if_due()
            for name, value in expert_load.figures(loop.decoder).items():
                window.figure(name, value)
        curve.close(evaluation_s, time.perf_counter() - begin_s)
    resuming.tell_cost()
    if not job.ranks.alone:
        with recorder.phase("communication"):
            figures, absent = communication.measure(loop.rehearse, job.ranks, job.device)
        for name, value in figures.items():
            window.figure(name, value)
        for name, reason in absent.items():
            window.absent(name, reason)
    recorder.figure("tokens_fed", loop.tokens_seen)
    recorder.figure("first_loss", loop.first_loss)
