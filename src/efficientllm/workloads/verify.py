"""Verification: a combination against its own reference, in training and token by token, before it is ever timed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from efficientllm import registry
from efficientllm.data.prepare import Prepared, prepare
from efficientllm.engines._contract import Engine, EngineEntry
from efficientllm.errors import Disagrees
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.models.costs import facts, train_work
from efficientllm.models.decoder import Decoder
from efficientllm.models.mixers._contract import Mixer
from efficientllm.models.mlp._contract import Mlp
from efficientllm.models.part import same_choices
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import InferenceSettings, PretrainSettings, VerifySettings
from efficientllm.records.window import Work
from efficientllm.training.loop import TrainLoop
from efficientllm.training.tokens import StepTokens
from efficientllm.workloads._contract import Job, WorkloadEntry
from efficientllm.workloads.cards import copy_cards

#: A first step pays for what is made once; the second one is the window's.
_TRAIN_STEPS = 2
#: In low precision a choice of blocks may fall the other way for a few tokens, which is no fault: the error that is
#: bounded is that of all tokens but so many. (Choices of experts are held: see `same_choices`.)
_TOKENS_APART = 0.1

Kind = TypeVar("Kind", PretrainSettings, InferenceSettings)


def run(job: Job) -> None:
    """Build the model, hold it to its reference, take a training step and a decode step.

    Windows: `verify` (the errors, as figures), `train` and `decode` (one step each, after one that is not timed).

    Raises:
        Disagrees: an error above its bound; the message names all that are.
        Diverged: the loss is not finite.
    """
    settings, recorder, device = job.trial.settings, job.recorder, job.device
    assert isinstance(settings, VerifySettings)
    with recorder.phase("data"):
        prepared = prepare(settings, job.cache)
    recorder.data(prepared.facts)
    recorder.baseline_memory()
    with recorder.phase("load"):
        decoder = build_decoder(
            settings, vocab_tokens=prepared.tokenizer.vocab_tokens, seed=job.trial.seed, device=device.torch_device()
        )
    copy_cards(recorder, settings)
    dtype = getattr(torch, settings.dtype)
    recorder.model(facts(decoder, dtype.itemsize, settings.sequence_tokens, trains_in=dtype))
    rows, _ = prepared.heldout.heldout_rows(settings.sequence_tokens, settings.rows * settings.sequence_tokens)
    rows_BT = torch.from_numpy(rows).to(device.torch_device())
    with tempfile.TemporaryDirectory(prefix="efficientllm-") as scratch:
        folder = Path(scratch, "model")
        checkpoint.save(decoder, settings, folder, prepared.tokenizer.path)
        _check(job, settings, decoder, folder, rows_BT)
        _train(job, settings, decoder, prepared)
        _decode(job, settings, folder, rows_BT)


def _check(job: Job, settings: VerifySettings, decoder: Decoder, folder: Path, rows_BT: Tensor) -> None:
    """Measure all errors before the first of them ends the trial."""
    work = Work(tokens=rows_BT[:, 1:].numel(), samples=len(rows_BT))
    with job.recorder.window("verify", work=work, adaptive=False) as window:
        errors = forward_errors(decoder, settings, rows_BT)
        job.recorder.progress(1, 4, "forward and backward compared")
        with _engine(job, settings, folder, "float32") as engine:
            errors["decode_error_ratio"] = decode_error(decoder, engine, rows_BT[:, :-1], settings.decode_tokens)
        job.recorder.progress(2, 4, "decode compared")
        for name, error in errors.items():
            if error == error:  # a figure is a number
                window.figure(name, error)
            else:
                window.absent(name, "the result holds values that are no numbers")
        if settings.dtype == "float32":
            window.absent("low_precision_error_ratio", "the recipe computes in float32")
        bounds = {name: settings.low_precision_bound if "precision" in name else settings.error_bound
                  for name in errors}  # fmt: skip
        wrong = [f"{name} {errors[name]:.2g} is above {bounds[name]:g}" for name in errors
                 if not errors[name] <= bounds[name]]  # fmt: skip
        if wrong:
            raise Disagrees(f"{'; '.join(wrong)}: the fast path does not give what the reference gives")


def forward_errors(decoder: Decoder, settings: VerifySettings, rows_BT: Tensor) -> dict[str, float]:
    """Return the relative errors of the result and of all gradients, and of the result in low precision.

    Args:
        decoder: in float32; its gradients are overwritten, and gone afterwards.
        settings: its dtype is the low precision, if it is not float32.
        rows_BT: tokens and their last target.
    """
    tokens_BT, targets_BT = rows_BT[:, :-1], rows_BT[:, 1:]
    with through_references(decoder):
        expected_BTD, expected = _pass(decoder, tokens_BT, targets_BT)
    with same_choices(decoder):  # experts are chosen in float32; the low precision is held to the same ones
        got_BTD, got = _pass(decoder, tokens_BT, targets_BT)
        low_BTD = _low_pass(decoder, settings, tokens_BT)
    errors = {
        "reference_error_ratio": _relative(got_BTD, expected_BTD),
        "gradient_error_ratio": _relative(torch.cat(got), torch.cat(expected)),
    }
    if low_BTD is not None:
        apart_BT = (low_BTD - expected_BTD).norm(dim=-1) / expected_BTD.norm(dim=-1)
        errors["low_precision_error_ratio"] = float(apart_BT.flatten().quantile(1 - _TOKENS_APART))
    return errors


def _low_pass(decoder: Decoder, settings: VerifySettings, tokens_BT: Tensor) -> Tensor | None:
    """Return the residual stream in the recipe's own number format, None where that is float32."""
    if settings.dtype == "float32":
        return None
    with torch.no_grad(), torch.autocast(tokens_BT.device.type, dtype=getattr(torch, settings.dtype)):
        return decoder.hidden(tokens_BT).float()


@contextlib.contextmanager
def through_references(decoder: Decoder) -> Iterator[None]:
    """Let every part that has a plain reference compute by it, whatever the decoder's blocks look like."""
    replaced = [module for module in decoder.modules() if isinstance(module, Mixer | Mlp)]
    replaced = [module for module in replaced if hasattr(module, "reference")]
    for module in replaced:
        vars(module)["forward"] = _plain(module)
    try:
        yield
    finally:
        for module in replaced:
            del vars(module)["forward"]


def _plain(module: Any) -> Any:
    def forward(x_BTD: Tensor, *inputs: Any, **named: Any) -> Tensor:
        ours = vars(module).pop("forward")  # a part without a form of its own may have `forward` for its reference
        try:
            out_BTD: Tensor = reference(x_BTD, *inputs, **named)
            return out_BTD
        finally:
            vars(module)["forward"] = ours

    def mixed(x_BTD: Tensor, positions: Any, state: Any = None, sequence_ids_BT: Tensor | None = None) -> Tensor:
        assert state is None, "a reference has no state"
        out_BTD: Tensor = module.reference(x_BTD, positions, sequence_ids_BT)
        return out_BTD

    reference = mixed if isinstance(module, Mixer) else module.reference
    return forward


def decode_error(decoder: Decoder, engine: Engine, tokens_BT: Tensor, decode_tokens: int) -> float:
    """Return the relative error of logits that an engine gives token by token, against the decoder's all at once."""
    first = max(1, tokens_BT.shape[1] - decode_tokens)
    with torch.inference_mode():
        expected_BTV = decoder(tokens_BT)[:, first - 1 :]
        engine.begin(len(tokens_BT), tokens_BT.shape[1])
        # an engine may give the same memory back at every step
        got = [engine.prefill(tokens_BT[:, :first]).clone()]
        got += [engine.decode(tokens_B.contiguous()).clone() for tokens_B in tokens_BT[:, first:].unbind(1)]
        return _relative(torch.stack(got, dim=1), expected_BTV)


def _train(job: Job, settings: VerifySettings, decoder: Decoder, prepared: Prepared) -> None:
    tokens = _TRAIN_STEPS * settings.rows * settings.sequence_tokens
    budget = _as(PretrainSettings, settings, tokens=tokens, micro_batch=settings.rows)
    batches = StepTokens(prepared.train, budget, job.device.torch_device(), job.trial.seed)
    loop = TrainLoop(decoder, budget, batches, job.device)
    with job.recorder.phase("warmup"):
        loop.step()
    work = train_work(decoder, settings.rows, settings.sequence_tokens)
    with job.recorder.window("train", work=work, adaptive=False) as window:
        with window.step():
            loss = loop.step()
        window.value("loss", "nats/token", loss)
    job.recorder.progress(3, 4, f"loss {loss:.2f}")
    job.recorder.figure("tokens_fed", loop.tokens_seen)
    job.recorder.figure("first_loss", loop.first_loss)


def _decode(job: Job, settings: VerifySettings, folder: Path, rows_BT: Tensor) -> None:
    tokens_BT = rows_BT[:, :-1]
    coordinates = {"batch": len(tokens_BT), "tokens": tokens_BT.shape[1]}
    with _engine(job, settings, folder, settings.dtype) as engine:
        engine.begin(len(tokens_BT), tokens_BT.shape[1] + 2)
        tokens_B = engine.prefill(tokens_BT).argmax(-1)
        with job.recorder.phase("warmup"):
            tokens_B = engine.decode(tokens_B).argmax(-1)
        work = engine.decode_work(len(tokens_BT), tokens_BT.shape[1])
        with job.recorder.window("decode", work=work, coordinates=coordinates, adaptive=False) as window:
            with window.step():
                logits_BV = engine.decode(tokens_B)
            if not bool(logits_BV.isfinite().all()):
                raise Disagrees(f"decode in {settings.dtype} gives logits that are not finite")
    job.recorder.progress(4, 4, "decoded")


@contextlib.contextmanager
def _engine(job: Job, settings: VerifySettings, folder: Path, dtype: str) -> Iterator[Engine]:
    """Open the saved model in an engine, in one number format."""
    entry: EngineEntry = registry.load("engine", settings.engine.address())
    engine = entry.open(
        _as(InferenceSettings, settings, engine=settings.engine, dtype=dtype),
        folder=folder,
        vocab_tokens=0,
        seed=job.trial.seed,
        device=str(job.device.torch_device()),
        threads=job.threads,
    )
    try:
        yield engine
    finally:
        engine.close()


def _as(kind: type[Kind], settings: ModelSettings, **more: Any) -> Kind:
    """Return another workload's settings for the same model."""
    return kind(**{**{name: getattr(settings, name) for name in ModelSettings.__struct_fields__}, **more})


def _pass(decoder: Decoder, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the residual stream and the gradients of the loss, flat."""
    with torch.no_grad():
        hidden_BTD = decoder.hidden(tokens_BT)
    decoder.loss(tokens_BT, targets_BT).backward()
    gradients = [p.grad.flatten() for p in decoder.parameters() if p.grad is not None]
    decoder.zero_grad(set_to_none=True)
    return hidden_BTD, gradients


def _relative(got: Tensor, expected: Tensor) -> float:
    return float((got.float() - expected.float()).norm() / expected.float().norm())


ENTRY = WorkloadEntry(title="A combination against its own reference", run=run)
