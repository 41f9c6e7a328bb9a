"""Pretraining: from scratch to a fixed token budget, a measured segment inside it, then held-out quality."""

from __future__ import annotations

import torch

from efficientllm.data.packing import TokenFile
from efficientllm.data.prepare import prepare
from efficientllm.models.build import build_decoder
from efficientllm.models.checkpoint import save, weight_file_bytes
from efficientllm.models.costs import facts
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.evaluate import Rows, evaluation_rows
from efficientllm.training.loop import TrainLoop
from efficientllm.training.offload import building_device
from efficientllm.training.tokens import StepTokens
from efficientllm.workloads import quality
from efficientllm.workloads._contract import Job, WorkloadEntry
from efficientllm.workloads.cards import copy_cards
from efficientllm.workloads.measured_training import train
from efficientllm.workloads.memory import load_compiler, tell_held, tell_prediction
from efficientllm.workloads.resuming import Resuming


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
    load_compiler()
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
    resuming = Resuming(job, loop, prepared.facts)
    copy_cards(recorder, settings)
    with loop.autocast():
        dtype = getattr(torch, settings.dtype)
        recorder.model(facts(decoder, dtype.itemsize, settings.sequence_tokens, trains_in=dtype))
    train(job, loop, _looked_at(prepared.heldout, settings), resuming)
    quality.judge(quality.decoder_scorer(decoder, settings, loop.autocast), prepared, settings, device, recorder)
    if job.artifact:
        with recorder.phase("save"), loop.at_rest():
            weights = loop.shards.whole_weights()  # all ranks give their shares, one writes
            if weights is not None:
                save(decoder, settings, job.artifact, prepared.tokenizer.path, weights)
        if weights is not None:
            recorder.figure("disk_bytes", weight_file_bytes(job.artifact))


def _looked_at(heldout: TokenFile, settings: PretrainSettings) -> Rows | None:
    """Return the rows of looks at held-out text, where there are to be any."""
    if not settings.evaluate_every:
        return None
    rows_RT = evaluation_rows(heldout, settings)
    return rows_RT[:, :-1], rows_RT[:, 1:]


ENTRY = WorkloadEntry(title="Pretraining to a fixed token budget", run=run)
