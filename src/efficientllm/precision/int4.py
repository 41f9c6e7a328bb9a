"""Four-bit whole numbers, rounded to nearest between the least and the largest of each group of 128."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from efficientllm.precision._blocks import Blocks, cut, join_codes
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.precision._layer import pack_blocks
from efficientllm.records.card import Card

#: The largest code.
_TOP = 15


def pack(weight: Tensor, bias: Tensor | None, group: int = 128) -> PackedLinear:
    """Return the layer of a matrix.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.
        group: numbers along the input that share a step and a least value, a power of two from 16 to 1024.

    Raises:
        UserError: another group size, or a matrix with numbers that are not finite.
    """
    return pack_blocks(weight, bias, group, functools.partial(_code, group=group), "int4: group")


def _code(flat: Tensor, group: int) -> Blocks:
    """Return the blocks of consecutive numbers; codes are chosen for step and least value as bfloat16 holds them."""
    numbers_KS = cut(flat, group)
    low_K, high_K = numbers_KS.aminmax(dim=1)
    lows_K = low_K.bfloat16()
    # From the rounded low on: the largest number is then the end of the range all the same.
    steps_K = ((high_K - lows_K.float()) / _TOP).bfloat16()
    step_K1 = steps_K.float()[:, None]
    codes_KS = ((numbers_KS - lows_K.float()[:, None]) / torch.where(step_K1 == 0, 1.0, step_K1)).round()
    values = torch.arange(_TOP + 1.0, device=flat.device)
    return Blocks(join_codes(codes_KS.clamp(0, _TOP).flatten()), values, steps_K, lows_K)


ENTRY = PrecisionEntry(
    card=Card(
        title="4-bit integers in groups, rounded to nearest",
        source="arXiv:2210.17323",
        improves=("memory", "compression"),
        costs=("latency", "quality"),
        note="the baseline that GPTQ compares with; frozen weights, against 16-bit weights",
    ),
    pack=pack,
    bits=4 + 2 * 16 / 128,
)
