"""From settings to a prediction: the model is put together without memory, one layer of it, and asked what it keeps."""

from __future__ import annotations

import dataclasses
import importlib.util

import torch
from msgspec.structs import replace

from efficientllm.models.adapted import has_frozen, uncounted
from efficientllm.models.assemble import assemble
from efficientllm.models.decoder import Decoder
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.match import matched
from efficientllm.models.part import Part
from efficientllm.models.shape import resolve_shape
from efficientllm.planner.placement import first_trained
from efficientllm.planner.train_memory import moments
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.prediction import MemoryPrediction
from efficientllm.records.training_settings import TrainingSettings


def predict_training(settings: TrainingSettings, vocab_tokens: int, device: str) -> MemoryPrediction:
    """Return the most memory that one rank of a training run takes; settings that make no model give no prediction.

    Args:
        settings: of the run.
        vocab_tokens: rows of the table of token vectors.
        device: its kind, `cpu` or `cuda`.

    Raises:
        EfficientLLMError: settings that make no model.
    """
    if isinstance(settings, FinetuneSettings):
        from efficientllm.planner.adapted_model import adapted_model  # takes peft, which takes seconds to import

        found = adapted_model(settings, vocab_tokens)
        if isinstance(found, str):
            return MemoryPrediction(why_not=found)
        return predict_for(found.decoder, found.num_layers, settings, device, found.held_bytes)
    decoder, num_layers = one_layer(settings, vocab_tokens)
    return predict_for(decoder, num_layers, settings, device)


def predict_for(
    decoder: Decoder, num_layers: int, settings: TrainingSettings, device: str, held_bytes: float = 0.0
) -> MemoryPrediction:
    """Return the same for a decoder that is there, of all layers or of one, with or without adapters.

    Args:
        decoder: the decoder.
        num_layers: layers of the one that is meant.
        settings: of the run.
        device: its kind.
        held_bytes: what lies on the device beside the decoder's own tensors all the time; it counts as weights.
    """
    parts = _parts(decoder)
    frozen = dict.fromkeys(type(part).__name__ for part in parts if not part.counts_frozen and has_frozen(part))
    if frozen:
        what = f"{' and '.join(frozen)}: says what it keeps where all of it is trained, not where weights are frozen"
        return MemoryPrediction(why_not=what)
    try:
        steps = moments(decoder, num_layers, settings, forward_pass(decoder, settings, device))
    except NotImplementedError:
        names = " and ".join(dict.fromkeys(type(part).__name__ for part in parts))
        return MemoryPrediction(why_not=f"{names}: one of them does not say what it keeps in training (`saved_bytes`)")
    most = max(steps, key=lambda moment: moment.peak_bytes)
    return replace(
        most,
        weights_bytes=most.weights_bytes + held_bytes,
        standing_bytes=steps[-1].peak_bytes + held_bytes,
        at_least=uncounted(decoder, settings.compile),
    )


def one_layer(settings: TrainingSettings, vocab_tokens: int) -> tuple[Decoder, int]:
    """Return a decoder of one layer that takes no memory, and how many layers are meant."""
    shape, effective, _ = matched(resolve_shape(settings, vocab_tokens), settings)
    dtype = getattr(torch, settings.weights_dtype)
    return assemble(dataclasses.replace(shape, num_layers=1), effective, device="meta", dtype=dtype), shape.num_layers


def forward_pass(decoder: Decoder, settings: TrainingSettings, device: str) -> ForwardPass:
    """Return one pass of one rank, as the parts are asked about it."""
    weight_bytes = int(getattr(torch, settings.weights_dtype).itemsize)
    return ForwardPass(
        rows=settings.micro_batch,
        tokens=settings.sequence_tokens,
        dtype_bytes=int(getattr(torch, settings.dtype).itemsize),
        weight_bytes=weight_bytes,
        residual_bytes=weight_bytes,  # the stream begins as a row of the table of token vectors
        compiled=settings.compile,
        recomputes=settings.activation_checkpointing == "selective",
        accelerator=device == "cuda",
        kernels=device == "cuda" and importlib.util.find_spec("triton") is not None,
        rotates=decoder.position.rotates,
        biases_scores=decoder.position.biases_scores,
        turns_part=bool(getattr(decoder.position, "partial", False)),
        packed=isinstance(settings, FinetuneSettings),
    )


def _parts(decoder: Decoder) -> list[Part]:
    """Return mixers and mlps of the layers that keep something."""
    blocks = [decoder.block(number) for number in range(first_trained(decoder), len(decoder.blocks))]
    return [part for block in blocks for part in (block.mixer, block.mlp)]
