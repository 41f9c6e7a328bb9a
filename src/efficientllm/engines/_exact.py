"""What a decoder's weights give when nothing is rounded on the way: float32 arithmetic, layer by layer.

And what they give when no more is done wrong than numbers rounded where a type of activations rounds them: how far that
moves the logits depends on the model (with random weights it grows with width and depth), so it is measured, not known.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.models.block import Block
from efficientllm.models.decoder import Decoder
from efficientllm.precision._contract import PackedLinear
from efficientllm.precision._packed_product import plain_quantised_rows
from efficientllm.precision.pack import unpack


class Rounding(NamedTuple):
    """Types that numbers are rounded to: between and inside the layers, and on their way into packed matrices."""

    stream: torch.dtype
    products: torch.dtype


def exact_logits(decoder: Decoder, tokens_BT: Tensor, last: int, rounding: Rounding | None = None) -> Tensor:
    """Return the logits after the last so many tokens, BnV.

    Packed matrices are read as they are held, so that what their format has lost is lost here too. One layer at a time
    is there a second time, in float32 and dense.

    Args:
        decoder: the model, as it is served.
        tokens_BT: token ids.
        last: how many.
        rounding: round as these types do, but compute in float32; None: round nothing.
    """
    tokens_BT = tokens_BT.to(decoder.device)
    position = copy.deepcopy(decoder.position).float()
    index_1T = torch.arange(tokens_BT.shape[1], device=decoder.device)[None]
    x_BTD = position.embed(decoder.embed(tokens_BT).float(), index_1T)
    positions = position.at(index_1T, torch.float32)
    for number in range(decoder.shape.num_layers):
        x_BTD = exact_block(decoder.block(number), rounding)(x_BTD, positions, None, None)
        x_BTD = x_BTD if rounding is None else rounded(x_BTD, rounding.stream)
    x_BTD = copy.deepcopy(decoder.norm).float()(x_BTD[:, -last:])
    x_BTD = x_BTD if rounding is None else rounded(x_BTD, rounding.stream)
    return F.linear(x_BTD, decoder.head_weight.float())


def exact_block(block: Block, rounding: Rounding | None = None) -> Block:
    """Return a copy of a layer in float32, dense and not compiled."""
    plain = copy.deepcopy(block).float()
    for owner in list(plain.modules()):
        for name, part in list(owner.named_children()):
            if isinstance(part, PackedLinear):
                setattr(owner, name, unpack(part))
                if rounding is not None:
                    round_around(getattr(owner, name), rounding.products, rounding.stream)
            elif isinstance(part, nn.Linear) and rounding is not None:
                round_around(part, rounding.stream, rounding.stream)
    return plain


def round_around(layer: nn.Module, before: torch.dtype, after: torch.dtype) -> None:
    """Let a layer round what goes in and what comes out."""

    def first(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (rounded(given[0], before), *given[1:])

    def then(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
        return rounded(out, after)

    layer.register_forward_pre_hook(first)
    layer.register_forward_hook(then)


def rounded(x: Tensor, kind: torch.dtype) -> Tensor:
    """Return numbers as a type holds them; 8-bit floats have a scale a row."""
    if kind.itemsize > 1:
        return x.to(kind).to(x.dtype)
    codes, scales = plain_quantised_rows(x.flatten(0, -2), kind)
    return (codes.to(x.dtype) * scales).view_as(x)
