"""Four-bit whole numbers, rounded to nearest between the least and the largest of each group of 128.

A number is `(code - 8) * scale + zero`, scale and zero of its group in bfloat16: exactly what torch's products of 4-bit
matrices compute with, so that a layer is served by them without being rounded once more.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from efficientllm.precision._blocks import Blocks, cut, join_codes
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.precision._layer import pack_blocks
from efficientllm.records.card import Card

#: What the 16 codes mean, in steps from the zero of their group: that of torch's own products of 4-bit matrices.
LEAST, TOP = -8, 7


def pack(weight: Tensor, bias: Tensor | None, group: int = 128) -> PackedLinear:
    """Return the layer of a matrix.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.
        group: numbers along the input that share a scale and a zero, a power of two from 16 to 1024.

    Raises:
        UserError: another group size, or a matrix with numbers that are not finite.
    """
    return pack_blocks(weight, bias, group, functools.partial(_code, group=group), "int4: group")


def _code(flat: Tensor, group: int) -> Blocks:
    """Return the blocks of consecutive numbers; codes are chosen for scale and zero as bfloat16 holds them."""
    numbers_KS = cut(flat, group)
    low_K, high_K = numbers_KS.aminmax(dim=1)
    zeros_K = (low_K + (high_K - low_K) * (-LEAST / (TOP - LEAST))).bfloat16()
    # From the rounded zero on: both ends of the group are then within reach all the same.
    reach_K = torch.maximum((low_K - zeros_K.float()) / LEAST, (high_K - zeros_K.float()) / TOP)
    scales_K = reach_K.bfloat16()
    scale_K1 = scales_K.float()[:, None]
    steps_KS = ((numbers_KS - zeros_K.float()[:, None]) / torch.where(scale_K1 == 0, 1.0, scale_K1)).round()
    codes_KS = steps_KS.clamp(LEAST, TOP) - LEAST
    values = torch.arange(LEAST, TOP + 1.0, device=flat.device)
    return Blocks(join_codes(codes_KS.flatten()), values, scales_K, zeros_K)


ENTRY = PrecisionEntry(
    card=Card(
        title="4-bit integers in groups, rounded to nearest",
        source="arXiv:2210.17323",
        improves=("memory", "latency", "compression"),
        costs=("quality",),
        note="the baseline that GPTQ compares with; latency of decoding, against 16-bit weights",
    ),
    pack=pack,
    bits=4 + 2 * 16 / 128,
    computes_in="bfloat16",
)
