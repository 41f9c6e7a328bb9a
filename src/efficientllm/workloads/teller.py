"""Who tells next-token distributions over rows of text: an engine, or a decoder that is only there to be compared with.

The second is held on the device where it fits beside what is there, else it passes over the device layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.devices._contract import Device
from efficientllm.engines._contract import Engine
from efficientllm.engines._logits import logits_of, piece_tokens, row_nats
from efficientllm.errors import Unsupported
from efficientllm.models import checkpoint
from efficientllm.models.decoder import Decoder
from efficientllm.models.linear import stored_bytes
from efficientllm.models.pack_decoder import dense_layers
from efficientllm.models.streamed import moved, streamed_hidden
from efficientllm.precision.pack import load_precision, pack_frozen
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

#: Share of the memory that is free which a reference may take; the rest is for logits and activations.
_FREE_SHARE = 0.6
_ROWS_AT_ONCE = 8


class Teller(Protocol):
    """Tells the logits after each token of rows that it was given."""

    def begin(self, rows_RT: Tensor) -> None:
        """Take all rows of a text: token ids, each row from its beginning."""
        ...

    def pieces(self, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Yield places, and the logits after them, BtV in float32, in order; a piece may be overwritten."""
        ...


class EngineTeller:
    """An engine, in its own precision and by its own cache."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._rows_RT = engine, torch.empty(0, 0, dtype=torch.int64)

    def begin(self, rows_RT: Tensor) -> None:
        """Take all rows of a text."""
        self._rows_RT = rows_RT

    def pieces(self, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Yield places, and the logits after them."""
        place = 0
        for logits_BtV in logits_of(self._engine, self._rows_RT[rows]):
            yield slice(place, place + logits_BtV.shape[1]), logits_BtV
            place += logits_BtV.shape[1]

    def nats(self, rows_BT: Tensor) -> list[float]:
        """Return the summed loss of each row by the engine's own way, which may be faster than by logits."""
        return row_nats(self._engine, rows_BT)


class DecoderTeller:
    """A decoder.

    Attributes:
        name: its number format.
        streamed: whether it lies in the host's memory and passes over the device layer by layer.
    """

    def __init__(self, name: str, decoder: Decoder, device: torch.device, *, streamed: bool) -> None:
        self.name, self.streamed = name, streamed
        self._decoder, self._device = decoder.eval().requires_grad_(False), device
        self._rows_RT = torch.empty(0, 0, dtype=torch.int64)
        self._hidden: Callable[[slice], Tensor] = self._computed
        self._last: tuple[slice, Tensor] | None = None
        self._head_VD: Tensor | None = None

    def begin(self, rows_RT: Tensor) -> None:
        """Take all rows of a text; streamed, they pass the layers now."""
        self._rows_RT, self._last = rows_RT, None
        if self.streamed:
            hidden_RTD = streamed_hidden(self._decoder, rows_RT, self._device, _ROWS_AT_ONCE)
            self._hidden = lambda rows: hidden_RTD[rows].to(self._device)

    def pieces(self, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Yield places, and the logits after them."""
        batch, length = self._rows_RT[rows].shape
        piece = piece_tokens(batch, self._decoder.shape.vocab_tokens, self._device)
        for start in range(0, length, piece):
            places = slice(start, min(start + piece, length))
            yield places, self.logits(rows, places)

    @torch.inference_mode()
    def logits(self, rows: slice, places: slice) -> Tensor:
        """Return the logits after these places of these rows, BtV in float32."""
        if self._last is None or self._last[0] != rows:
            self._last = None  # never two batches at once
            self._last = rows, self._hidden(rows)
        return F.linear(self._last[1][:, places], self._head()).float()

    def _computed(self, rows: slice) -> Tensor:
        return self._decoder.hidden(self._rows_RT[rows].to(self._device))

    def _head(self) -> Tensor:
        if self._head_VD is None:
            self._head_VD = self._decoder.head_weight.to(self._device)
        return self._head_VD


def reference_choice(settings: InferenceSettings) -> tuple[Choice | None, str]:
    """Return the number format that a trial is compared with, and why there is none to compare with.

    The format is None for the plain `dtype`.
    """
    own = (settings.precision, settings.cache)
    if settings.against is None:
        return None, "" if own != (None, None) else f"the weights are the plain {settings.dtype}: nothing to compare"
    same = settings.against == settings.precision or (settings.precision is None and _is_plain(settings))
    if same and settings.cache is None:
        return None, f"{settings.against.label()} is what others are compared with"
    return settings.against, ""


def load_reference(
    folder: Path, choice: Choice | None, settings: InferenceSettings, device: Device, *, streamed: bool | None = None
) -> DecoderTeller:
    """Load a model a second time, in the number format of a reference; on the device if it fits beside what is there.

    Args:
        folder: of the model.
        choice: the format of the dense layers of its blocks; None for the plain `dtype`.
        settings: of the trial.
        device: where it computes.
        streamed: whether it passes over the device layer by layer; None: only if it does not fit.

    Raises:
        Unsupported: a format that needs text to be calibrated on.
        UnknownNameError: no such format.
    """
    entry = load_precision(choice) if choice is not None else None
    if entry is not None and entry.needs_inputs:
        assert choice is not None
        raise Unsupported(
            f"against {choice.name}: it is calibrated on text, and its trial alone holds it. Name a plain one"
        )
    dtype = getattr(torch, (entry.dtype if entry is not None else "") or settings.dtype)
    decoder = checkpoint.load(folder, "cpu", dtype)
    if choice is not None and entry is not None and entry.pack is not None:
        pack_frozen(list(dense_layers(decoder.blocks)), choice)
    where, name = device.torch_device(), choice.label() if choice is not None else settings.dtype
    if streamed is None:
        streamed = where.type != "cpu" and stored_bytes(decoder) > _FREE_SHARE * _free_bytes(where)
    return DecoderTeller(name, decoder if streamed else moved(decoder, where), where, streamed=streamed)


def _is_plain(settings: InferenceSettings) -> bool:
    assert settings.against is not None
    return load_precision(settings.against).dtype == settings.dtype


def _free_bytes(device: torch.device) -> float:
    """Return what a process can still take of a device, what torch keeps for itself included."""
    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
