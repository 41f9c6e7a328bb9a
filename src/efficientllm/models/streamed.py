"""A decoder that is too big for the device, evaluated layer by layer: one layer there at a time, over all rows."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from efficientllm.models.decoder import Decoder
from efficientllm.models.part import compute_dtype

M = TypeVar("M", bound=nn.Module)


@torch.inference_mode()
def streamed_hidden(decoder: Decoder, tokens_RT: Tensor, device: torch.device, rows_at_once: int = 8) -> Tensor:
    """Return what the head reads, RTD, as `Decoder.hidden` gives it, in the memory where the decoder lies.

    The device holds one layer and a few rows; the decoder's own memory holds all rows between the layers.

    Args:
        decoder: the model; it stays where it is.
        tokens_RT: token ids of all rows, each from its beginning.
        device: what computes.
        rows_at_once: rows that pass a layer together.

    Raises:
        Unsupported: more tokens than the position encoding has positions.
    """
    decoder.position.check_length(tokens_RT.shape[1])
    index_1T = torch.arange(tokens_RT.shape[1], device=decoder.device)[None]
    x_RTD = decoder.position.embed(decoder.embed(tokens_RT.to(decoder.device)), index_1T)
    position = moved(decoder.position, device)
    positions = position.at(index_1T.to(device), compute_dtype(decoder.embed.weight))
    for number in range(decoder.shape.num_layers):
        block = moved(decoder.block(number), device)
        for some_BTD in x_RTD.split(rows_at_once):
            some_BTD.copy_(block(some_BTD.to(device), positions, None, None))
    norm = moved(decoder.norm, device)
    for some_BTD in x_RTD.split(rows_at_once):
        some_BTD.copy_(norm(some_BTD.to(device)))
    return x_RTD


def moved(module: M, device: torch.device) -> M:
    """Return a module on a device: a copy, unless it is there."""
    there = next((t.device for t in (*module.parameters(), *module.buffers())), None)
    return module if there == device else copy.deepcopy(module).to(device)
