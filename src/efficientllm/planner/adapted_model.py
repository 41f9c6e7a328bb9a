"""The model of a fine-tuning run without memory: all its layers, with the method at work, on the device `meta`."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from msgspec.structs import replace

from efficientllm.adapters.attach import attach, load_method
from efficientllm.models.assemble import assemble
from efficientllm.models.checkpoint import describe
from efficientllm.models.decoder import Decoder
from efficientllm.models.match import matched
from efficientllm.models.shape import Shape, resolve_shape
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.model_settings import ModelSettings


class AdaptedModel(NamedTuple):
    """A decoder of all layers or of one, with a method.

    Attributes:
        decoder: the decoder.
        num_layers: layers of the one that is meant.
        held_bytes: what the method holds besides, for all layers.
    """

    decoder: Decoder
    num_layers: int
    held_bytes: float


def adapted_model(settings: FinetuneSettings, vocab_tokens: int) -> AdaptedModel | str:
    """Return the model of a run, or why it is not known before the run.

    All layers are there where they are not alike: a method may train the last ones only, or be told some by name.

    Args:
        settings: of the run.
        vocab_tokens: rows of the table of token vectors, where no model folder says them.

    Raises:
        EfficientLLMError: settings that make no model, or a method that does not fit it.
    """
    if settings.ranks > 1 or settings.offload == "weights":
        what = f"ranks {settings.ranks}" if settings.ranks > 1 else f"offload {settings.offload}"
        return f"{what}: fine-tuning runs on one device, with its weights there"
    # What changes no tensor of the model is left out, so that one model serves many questions.
    plain = replace(
        settings,
        micro_batch=1,
        accumulation=1,
        global_batch=0,
        activation_checkpointing="none",
        optimizer=Choice(name="adamw"),
        offload="none",
    )
    return _made(msgspec.json.encode(plain), vocab_tokens)


@functools.lru_cache(maxsize=4)
def _made(encoded: bytes, vocab_tokens: int) -> AdaptedModel | str:
    settings = msgspec.json.decode(encoded, type=FinetuneSettings)
    form = _form(settings, vocab_tokens)
    if isinstance(form, str):
        return form
    shape, parts = form
    method = settings.method
    alike = load_method(method).alike and "." not in str(method.options.get("targets", ""))
    built = dataclasses.replace(shape, num_layers=1) if alike else shape
    decoder = assemble(built, parts, device="meta", dtype=getattr(torch, settings.weights_dtype))
    attached = attach(decoder, settings, seed=0)
    return AdaptedModel(decoder, shape.num_layers, attached.held_bytes() * shape.num_layers / built.num_layers)


def _form(settings: FinetuneSettings, vocab_tokens: int) -> tuple[Shape, ModelSettings] | str:
    """Return the shape and the slots; of a model that is still to be fetched they are not known."""
    if not settings.model:
        shape, effective, _ = matched(resolve_shape(settings, vocab_tokens), settings)
        return shape, effective
    folder = _folder_here(settings.model)
    if folder is None:
        return f"model {settings.model} is not here yet; it is fetched when it runs"
    described, shape = describe(folder)
    return shape, described


def _folder_here(model: str) -> Path | None:
    """Return the folder of a model, None where it has yet to be fetched; nothing is."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(model, "config.json")
    except ValueError:  # no name that the hub could know; the run says so
        return None
    return Path(found).parent if isinstance(found, str) else None
