"""Pretraining: from scratch to a fixed token budget, a measured segment inside it, then held-out quality."""

from __future__ import annotations

import time

import torch

from efficientllm.data.packing import TokenFile
from efficientllm.data.prepare import prepare
from efficientllm.models import expert_load
from efficientllm.models.build import build_decoder
from efficientllm.models.checkpoint import save, weight_file_bytes
from efficientllm.models.costs import facts, train_work
from efficientllm.records.settings import PretrainSettings
from efficientllm.training import communication
from efficientllm.training.choose import state_bytes_on_device
from efficientllm.training.loop import TrainLoop
from efficientllm.training.offload import building_device
from efficientllm.training.tokens import StepTokens
from efficientllm.workloads import quality
from efficientllm.workloads._contract import Job, WorkloadEntry
from efficientllm.workloads.cards import copy_cards
from efficientllm.workloads.curve import Curve
from efficientllm.workloads.memory import tell_held, tell_prediction
from efficientllm.workloads.resuming import Resuming

#: At most this part of the token budget goes into warm-up, so that a short run still has a measured segment.
_WARM_UP_SHARE = 0.25


def run(job: Job) -> None:
    """Train one model and judge it; the checkpoint goes to the trial's artifact folder.

    Where the job keeps checkpoints it goes on from the newest, see `workloads.resuming`.

    Windows: `curve` (the whole run, see `workloads.curve`), `train` (the measured segment: all steps after warm-up; of
    a model with experts also how evenly they were used), `quality`.

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
            settings,
            vocab_tokens=prepared.tokenizer.vocab_tokens,
            seed=job.trial.seed,
            device=building_device(settings, device.torch_device()),
            dtype=getattr(torch, settings.weights_dtype),
            draws_on=device.torch_device(),
        )
        batches = StepTokens(prepared.train, settings, device.torch_device(), job.trial.seed, job.ranks)
        loop = TrainLoop(decoder, settings, batches, device, job.ranks)
    tell_prediction(job, prepared.tokenizer.vocab_tokens)
    tell_held(job, "loaded_bytes")
    resuming = Resuming(job, loop, prepared)
    copy_cards(recorder, settings)
    with loop.autocast():
        dtype = getattr(torch, settings.dtype)
        recorder.model(facts(decoder, dtype.itemsize, settings.sequence_tokens, trains_in=dtype))
    _train(job, loop, prepared.heldout, resuming)
    quality.judge(quality.decoder_scorer(decoder, settings), prepared, settings, device, recorder)
    if job.artifact:
        with recorder.phase("save"), loop.at_rest():
            weights = loop.shards.whole_weights()  # all ranks give their shares, one writes
            if weights is not None:
                save(decoder, settings, job.artifact, prepared.tokenizer.path, weights)
        if weights is not None:
            recorder.figure("disk_bytes", weight_file_bytes(job.artifact))


def _train(job: Job, loop: TrainLoop, heldout: TokenFile, resuming: Resuming) -> None:
    recorder, settings = job.recorder, loop.settings
    state_bytes = state_bytes_on_device(settings, loop.decoder)
    work = train_work(loop.decoder, settings.rows_per_step, settings.sequence_tokens, state_bytes)
    with recorder.window("curve", work=work, adaptive=False) as curve_window:
        curve, losses = Curve(job, loop, heldout, work, resuming.kept(curve_window)), [0.0]

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


ENTRY = WorkloadEntry(title="Pretraining to a fixed token budget", run=run)
