"""Fine-tuning: a model that is there learns responses to instructions by one method; judged before and after."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from efficientllm.adapters._contract import Attached
from efficientllm.adapters.attach import attach, load_method
from efficientllm.data.finetuning import prepare_finetuning
from efficientllm.data.prepare import Prepared, judged_rows
from efficientllm.data.samples import batch_rows
from efficientllm.errors import Unsupported, UserError
from efficientllm.models.build import build_decoder
from efficientllm.models.checkpoint import load, save, weight_file_bytes
from efficientllm.models.costs import facts
from efficientllm.models.decoder import Decoder
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.window import Work
from efficientllm.training.choose import state_bytes_on_device
from efficientllm.training.loop import TrainLoop
from efficientllm.training.samples import StepSamples
from efficientllm.workloads import quality
from efficientllm.workloads._contract import Job, WorkloadEntry
from efficientllm.workloads.cards import copy_cards
from efficientllm.workloads.measured_training import train
from efficientllm.workloads.memory import load_compiler, tell_adapted_prediction, tell_held
from efficientllm.workloads.responses import Judge
from efficientllm.workloads.resuming import Resuming


def run(job: Job) -> None:
    """Fine-tune one model and judge it; the merged model goes to the trial's artifact folder, the adapter beside it.

    Windows: `forgetting_before` and `forgetting_after` (the corpus' held-out text), `curve`, `train` (see
    `workloads.measured_training`), `quality` (see `workloads.responses`), which is absent with its reason for random
    weights.

    Raises:
        Diverged: the loss became NaN or exploded.
        Unsupported: several ranks, weights in the host's memory, or a method that does not fit the model.
    """
    settings, recorder, device = job.trial.settings, job.recorder, job.device
    assert isinstance(settings, FinetuneSettings)
    if settings.ranks > 1 or settings.offload == "weights":
        what = f"ranks {settings.ranks}" if settings.ranks > 1 else f"offload {settings.offload}"
        raise Unsupported(f"{what}: fine-tuning runs on one device, with its weights there")
    with recorder.phase("data"):
        text = prepare_finetuning(settings, job.parent_artifact, job.cache)
    folder, prepared, told = text.folder, text.corpus, text.told
    recorder.data(text.facts)
    for name, value in told.figures.items():
        recorder.figure(name, value)
    load_method(settings.method)  # what a library takes is no memory of its method
    load_compiler()
    recorder.baseline_memory()
    with recorder.phase("load"):
        decoder = _decoder(job, settings, folder, prepared)
        attached = _attached(decoder, settings, job.trial.seed)
        batches = StepSamples(told.train, settings, device.torch_device(), job.trial.seed, job.ranks)
        loop = TrainLoop(decoder, settings, batches, device, job.ranks, rate_factor=attached.rate_factor)
    tell_adapted_prediction(job, attached)
    tell_held(job, "loaded_bytes")
    _tell_parts(job, settings, decoder, attached)
    copy_cards(recorder, settings)
    with loop.autocast():
        dtype = getattr(torch, settings.dtype)
        recorder.model(facts(decoder, dtype.itemsize, settings.sequence_tokens, trains_in=dtype))
    before = _remembered(job, loop, prepared, "forgetting_before", folder)
    torch.manual_seed(job.trial.seed)  # of dropout
    resuming = Resuming(job, loop, text.facts)  # puts the weights where a stopped run left them: after `before`
    looked = batch_rows(text.looked_at, settings.sequence_tokens) if text.looked_at else None
    train(job, loop, looked, resuming)
    after = _remembered(job, loop, prepared, "forgetting_after", folder)
    if before and after:
        recorder.figure("forgetting_nats_per_token", after - before)
    if folder is None:
        _say_random(job, settings)
    else:
        Judge(decoder, settings, device, loop.autocast, prepared.tokenizer, recorder).judge(told.heldout)
    _keep(job, settings, decoder, attached, prepared, folder)


def _decoder(job: Job, settings: FinetuneSettings, folder: Path | None, prepared: Prepared) -> Decoder:
    dtype, device = getattr(torch, settings.weights_dtype), job.device.torch_device()
    vocab_tokens = prepared.tokenizer.vocab_tokens
    if folder is None:
        return build_decoder(settings, vocab_tokens=vocab_tokens, seed=job.trial.seed, device=device, dtype=dtype)
    decoder = load(folder, device, dtype)
    if decoder.shape.vocab_tokens < vocab_tokens:
        raise UserError(
            f"{folder}: the tokenizer has {vocab_tokens} tokens, but the model only {decoder.shape.vocab_tokens}. "
            "They do not belong together."
        )
    return decoder


def _attached(decoder: Decoder, settings: FinetuneSettings, seed: int) -> Attached:
    """Attach the method; what does not fit this model is a result of this row, and no fault of the study."""
    try:
        return attach(decoder, settings, seed)
    except UserError as error:
        raise Unsupported(str(error)) from error


def _tell_parts(job: Job, settings: FinetuneSettings, decoder: Decoder, attached: Attached) -> None:
    """Tell what of the memory is weights, gradients and the optimiser's state, counted from the tensors."""
    trained = attached.trained().values()
    figure = job.recorder.figure
    figure("gradient_bytes", sum(p.nbytes for p in trained))
    figure("optimizer_bytes", state_bytes_on_device(settings, decoder))


def _remembered(job: Job, loop: TrainLoop, prepared: Prepared, name: str, folder: Path | None) -> float:
    """Score the corpus' held-out text in a window of this name; return nats a token, 0 where it is not judged."""
    settings = loop.settings
    assert isinstance(settings, FinetuneSettings)
    if not settings.forgetting or folder is None:
        return 0.0
    scorer = quality.decoder_scorer(loop.decoder, settings, loop.autocast)
    return quality.score(scorer, judged_rows(prepared.heldout, settings), name, settings, job.device, job.recorder)


def _say_random(job: Job, settings: FinetuneSettings) -> None:
    job.recorder.figure("random_weights", 1)
    with job.recorder.window("quality", work=Work(samples=1), adaptive=False) as window:
        window.absent("heldout_bits_per_byte", "random weights: there is no quality to judge")


def _keep(
    job: Job, settings: FinetuneSettings, decoder: Decoder, attached: Attached, prepared: Prepared, folder: Path | None
) -> None:
    """Save what was trained, and its size; where somebody takes it also the merged model."""
    with job.recorder.phase("save"), TemporaryDirectory() as scratch:
        attached.save(Path(scratch), str(folder or settings.size))
        job.recorder.figure("adapter_bytes", weight_file_bytes(Path(scratch)))
        if job.artifact is None:
            return
        attached.merge()
        save(decoder, settings, job.artifact, prepared.tokenizer.path)
        (job.artifact / "adapter").mkdir(exist_ok=True)
        for path in Path(scratch).iterdir():
            (job.artifact / "adapter" / path.name).write_bytes(path.read_bytes())
    job.recorder.figure("disk_bytes", weight_file_bytes(job.artifact))


ENTRY = WorkloadEntry(title="Fine-tuning on instructions, to a fixed token budget", run=run)
