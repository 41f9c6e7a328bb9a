"""Puts a decoder together: a shape, and an entry in each slot. Its weights are still empty."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from efficientllm import registry
from efficientllm.errors import UserError
from efficientllm.models.decoder import Decoder
from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.mlp._contract import MlpEntry
from efficientllm.models.position._contract import PositionEntry
from efficientllm.models.shape import Shape
from efficientllm.records.choice import Choice, refuse_unknown_options
from efficientllm.records.model_settings import ModelSettings

_ENTRIES: dict[str, type] = {"mixer": MixerEntry, "position": PositionEntry, "mlp": MlpEntry}


def assemble(
    shape: Shape, settings: ModelSettings, *, device: str | torch.device, dtype: torch.dtype, seed: int = 0
) -> Decoder:
    """Return a decoder of this shape with the slots of the settings, whose dense weights are still empty.

    The seed serves parameters that a user's own part draws in its constructor.

    Raises:
        UnknownNameError: no such mixer, position or mlp.
        UserError: an option that makes no part.
        Unsupported: slots that do not go together; nothing has been allocated then.
    """
    if torch.device(device).type != "meta":
        check_parts(shape, settings)
    return _assemble(shape, settings, torch.device(device), dtype, seed)


def check_parts(shape: Shape, settings: ModelSettings) -> None:
    """Put one layer together without memory, so that whatever speaks against the combination is said.

    Raises:
        As `assemble`.
    """
    decoder = _assemble(replace(shape, num_layers=1), settings, torch.device("meta"), torch.float32, 0)
    decoder.position.check_length(settings.sequence_tokens)


def _assemble(shape: Shape, settings: ModelSettings, device: torch.device, dtype: torch.dtype, seed: int) -> Decoder:
    mixer: MixerEntry = load_slot("mixer", settings.mixer)
    position: PositionEntry = load_slot("position", settings.position)
    mlp: MlpEntry = load_slot("mlp", settings.mlp)
    with _construction(device, dtype, seed):
        decoder = Decoder(
            shape,
            lambda: mixer.build(shape, **settings.mixer.options),
            lambda rotary_dim: position.build(shape, rotary_dim, **settings.position.options),
            lambda: mlp.build(shape, **settings.mlp.options),
        )
    mixer.supports(shape, decoder.position)
    mlp.supports(shape)
    return decoder


def load_slot(kind: str, choice: Choice) -> Any:
    """Return the entry that a choice names, once its options are known to be its own.

    Raises:
        UnknownNameError: no such entry.
        UserError: an option that it does not have, or a file whose ENTRY is of another kind.
    """
    entry = registry.load(kind, choice.address())
    if not isinstance(entry, _ENTRIES[kind]):
        raise UserError(
            f"ENTRY of {choice.address()} is a {type(entry).__name__}, not a {_ENTRIES[kind].__name__}. "
            f"Choose it for another slot, or end the file with `ENTRY = {_ENTRIES[kind].__name__}(...)`."
        )
    refuse_unknown_options(kind, choice, known_options(kind, entry.build))  # type: ignore[attr-defined] # all three build
    return entry


def known_options(kind: str, build: Callable[..., Any]) -> list[str]:
    """Return the names of the options that an entry's `build` takes, beside what the decoder gives it.

    >>> known_options("position", lambda shape, rotary_dim, base=1: None)
    ['base']
    """
    given = 2 if kind == "position" else 1
    return list(inspect.signature(build).parameters)[given:]


@contextmanager
def _construction(device: torch.device, dtype: torch.dtype, seed: int) -> Iterator[None]:
    """Make new tensors on this device and of this type, with a random state of their own."""
    before = torch.get_default_dtype()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), device:
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
