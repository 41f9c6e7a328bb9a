"""Pretraining: from scratch to a fixed token budget, a measured segment inside it, then held-out quality."""

from __future__ import annotations

import torch

from efficientllm.data.prepare import prepare
from efficientllm.models import expert_load
from efficientllm.models.build import build_decoder
from efficientllm.models.checkpoint import save, weight_file_bytes
from efficientllm.models.costs import facts, train_work
from efficientllm.records.settings import PretrainSettings
from efficientllm.training import communication
from efficientllm.training.loop import TrainLoop
from efficientllm.workloads import quality
from efficientllm.workloads._contract import Job, OpenWindow, WorkloadEntry
from efficientllm.workloads.cards import copy_cards

#: At most this part of the token budget goes into warm-up, so that a short run still has a measured segment.
_WARM_UP_SHARE = 0.25


def run(job: Job) -> None:
    """Train one model and judge it; the checkpoint goes to the trial's artifact folder.

    Windows: `curve` (the whole run's loss, every step, and what else `TrainLoop.watched` holds), `train` (the measured
    segment: all steps after warm-up; of a model with experts also how evenly they were used), `quality`.

    Raises:
        Diverged: the loss became NaN or exploded.
    """
    settings, recorder = job.trial.settings, job.recorder
    assert isinstance(settings, PretrainSettings)
    device = job.device
    with recorder.phase("data"):
        prepared = prepare(settings, job.cache, settings.tokens)
    recorder.data(prepared.facts)
    for name, value in prepared.sanity.items():
        recorder.figure(f"{name}_bits_per_byte", value)
    recorder.baseline_memory()
    with recorder.phase("load"):
        decoder = build_decoder(
            settings, vocab_tokens=prepared.tokenizer.vocab_tokens, seed=job.trial.seed, device=device.torch_device()
        )
        loop = TrainLoop(decoder, settings, prepared.train, device, job.trial.seed, job.ranks)
    copy_cards(recorder, settings)
    with loop.autocast():
        dtype = getattr(torch, settings.dtype)
        recorder.model(facts(decoder, dtype.itemsize, settings.sequence_tokens, trains_in=dtype))
    _train(job, loop)
    quality.judge(quality.decoder_scorer(decoder, settings), prepared, settings, device, recorder)
    if job.artifact:
        with recorder.phase("save"):
            weights = loop.shards.whole_weights()  # all ranks give their shares, one writes
            if weights is not None:
                save(decoder, settings, job.artifact, prepared.tokenizer.path, weights)
        if weights is not None:
            recorder.figure("disk_bytes", weight_file_bytes(job.artifact))


def _train(job: Job, loop: TrainLoop) -> None:
    recorder, settings = job.recorder, loop.settings
    work = train_work(loop.decoder, settings.rows_per_step, settings.sequence_tokens)
    with recorder.window("curve", work=work, adaptive=False) as curve:

        def step() -> None:
            _note(job, loop, curve, loop.step())

        recorder.warm_up(step, max_steps=int(_WARM_UP_SHARE * loop.num_steps))
        expert_load.reset(loop.decoder)
        with recorder.window("train", work=work, adaptive=False) as window:
            while loop.steps_left:
                with window.step():
                    loss = loop.step()
                _note(job, loop, curve, loss)
            for name, value in expert_load.figures(loop.decoder).items():
                window.figure(name, value)
    if not job.ranks.alone:
        with recorder.phase("communication"):
            figures, absent = communication.measure(loop.rehearse, job.ranks, job.device)
        for name, value in figures.items():
            window.figure(name, value)
        for name, reason in absent.items():
            window.absent(name, reason)
    recorder.figure("tokens_fed", loop.tokens_seen)
    recorder.figure("first_loss", loop.first_loss)


def _note(job: Job, loop: TrainLoop, curve: OpenWindow, loss: float) -> None:
    """Take down a step: its loss, what else it said, and how far the run is."""
    curve.value("loss", "nats/token", loss)
    for (name, unit), value in loop.watched.items():
        curve.value(name, unit, value)
    job.recorder.progress(loop.tokens_seen, loop.settings.tokens, f"loss {loss:.2f}")


ENTRY = WorkloadEntry(title="Pretraining to a fixed token budget", run=run)
