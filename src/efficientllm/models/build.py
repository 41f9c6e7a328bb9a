"""Builds a decoder from settings: its shape, its three slots, its first weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from efficientllm.errors import Unsupported
from efficientllm.models.assemble import assemble, check_parts
from efficientllm.models.block import Block
from efficientllm.models.decoder import Decoder
from efficientllm.models.initial import initialise
from efficientllm.models.linear import Linear, StackedLinear
from efficientllm.models.match import matched
from efficientllm.models.shape import resolve_shape
from efficientllm.records.model_settings import ModelSettings


def build_decoder(
    settings: ModelSettings,
    *,
    vocab_tokens: int,
    seed: int,
    device: str | torch.device,
    dtype: torch.dtype = torch.float32,
    draws_on: torch.device | None = None,
    after_block: Callable[[Decoder, int], None] | None = None,
) -> Decoder:
    """Return a decoder with its first weights, drawn from the seed.

    Each type of device has random numbers of its own: `draws_on` makes the weights those of another one than `device`.
    `after_block` is called with the number of each layer as soon as it has its weights, and may replace its parts; such
    a layer lies where its weights are drawn, and takes no memory before.

    Raises:
        UnknownNameError: no such size, preset, mixer, position or mlp.
        UserError: an option or a shape that makes no model.
        Unsupported: parts that do not go together, or nothing that `match` could hold equal.
    """
    shape, settings, adjusted = matched(resolve_shape(settings, vocab_tokens), settings)
    decoder = assemble(shape, settings, device=device, dtype=dtype, seed=seed)
    decoder.adjusted = adjusted
    for number in range(shape.num_layers):
        if after_block is not None and draws_on is not None:
            _lie_on(decoder.block(number), draws_on)
        initialise(decoder.block(number), seed, shape.num_layers, draws_on, f"blocks.{number}")
        if after_block is not None:
            after_block(decoder, number)
    for name, part in decoder.named_children():
        if part is not decoder.blocks:
            initialise(part, seed, shape.num_layers, draws_on, name)
    return decoder


def _lie_on(block: Block, device: torch.device) -> None:
    """Move a layer to a device, matrices that are yet to be drawn without what lies in them: that was never touched."""
    for part in block.modules():
        if isinstance(part, Linear | StackedLinear):
            part.weight.data = torch.empty_like(part.weight, device=device)
    block.to(device)


def unsupported_reason(settings: ModelSettings, vocab_tokens: int) -> str:
    """Return why no model can be built of these settings, or an empty string if one can. Allocates nothing.

    Raises:
        UserError: a name, an option or a shape that is wrong use, and so no result.
    """
    try:
        shape, effective, _ = matched(resolve_shape(settings, vocab_tokens), settings)
        check_parts(shape, effective)
    except Unsupported as refusal:
        return str(refusal)
    return ""
