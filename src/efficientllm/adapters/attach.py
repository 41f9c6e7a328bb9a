"""From settings to a method at work on a decoder."""

from __future__ import annotations

import inspect

import torch

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.errors import Unsupported
from efficientllm.models.decoder import Decoder
from efficientllm.precision.pack import pack_frozen
from efficientllm.records.choice import Choice, load_chosen
from efficientllm.records.finetune_settings import FinetuneSettings


def load_method(choice: Choice) -> MethodEntry:
    """Return the method of a choice, and with it have the libraries that it stands on in memory.

    Raises:
        UnknownNameError: no such method.
        UserError: an option that it does not have.
    """
    return load_chosen("method", choice, MethodEntry, lambda e: list(inspect.signature(e.attach).parameters)[1:])


def attach(decoder: Decoder, settings: FinetuneSettings, seed: int) -> Attached:
    """Change a decoder as the settings' method wants it, then pack its frozen layers if they say so.

    Raises:
        UnknownNameError: no such method or precision.
        UserError: an option that it does not have, or that does not fit this model.
        Unsupported: a method that cannot be used over that precision.
    """
    choice = settings.method
    entry = load_method(choice)
    if settings.base_precision is not None and entry.over_packed:
        raise Unsupported(f"{choice.name} over a base of {settings.base_precision.name}: {entry.over_packed}")
    devices = [decoder.device] if decoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        attached = entry.attach(decoder, **choice.options)
    layers = [layer for layer in decoder.modules() if isinstance(layer, AdaptedLinear)]
    if settings.base_precision is not None:  # after the method: it may begin with a matrix that it changes (PiSSA)
        if not pack_frozen([(layer, "base") for layer in layers], settings.base_precision):
            raise Unsupported(f"{choice.name} leaves no frozen layer that {settings.base_precision.name} could pack")
    elif settings.dtype == settings.weights_dtype:  # else products take a copy, which has no room
        for layer in layers:
            layer.make_room()
    return attached
