"""What a decoder's weights give when nothing is rounded on the way: float32 arithmetic, layer by layer."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.block import Block
from efficientllm.models.decoder import Decoder
from efficientllm.precision._contract import PackedLinear
from efficientllm.precision.pack import unpack


def exact_logits(decoder: Decoder, tokens_BT: Tensor, last: int) -> Tensor:
    """Return the logits after the last so many tokens, BnV.

    Packed matrices are read as they are held, so that what their format has lost is lost here too. One layer at a time
    is there a second time, in float32 and dense.
    """
    tokens_BT = tokens_BT.to(decoder.device)
    position = copy.deepcopy(decoder.position).float()
    index_1T = torch.arange(tokens_BT.shape[1], device=decoder.device)[None]
    x_BTD = position.embed(decoder.embed(tokens_BT).float(), index_1T)
    positions = position.at(index_1T, torch.float32)
    for number in range(decoder.shape.num_layers):
        x_BTD = exact_block(decoder.block(number))(x_BTD, positions, None, None)
    x_BTD = copy.deepcopy(decoder.norm).float()(x_BTD[:, -last:])
    return F.linear(x_BTD, decoder.head_weight.float())


def exact_block(block: Block) -> Block:
    """Return a copy of a layer in float32, dense and not compiled."""
    plain = copy.deepcopy(block).float()
    for owner in list(plain.modules()):
        for name, part in list(owner.named_children()):
            if isinstance(part, PackedLinear):
                setattr(owner, name, unpack(part))
    return plain
