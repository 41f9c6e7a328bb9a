"""NormalFloat4: sixteen values that normally distributed weights use equally often, a scale for each block of 64."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from efficientllm.precision._blocks import Blocks, cut, join_codes, scales_of, shrink_scales
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.precision._layer import pack_blocks
from efficientllm.records.card import Card

#: The values of arXiv:2305.14314.
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def pack(weight: Tensor, bias: Tensor | None, block: int = 64, double: bool = True) -> PackedLinear:
    """Return the layer of a matrix.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.
        block: numbers that share a scale, a power of two from 16 to 1024.
        double: whether the scales are packed in their turn, 8 bits each, with 64 bits for 256 of them.

    Raises:
        UserError: another block size, or a matrix with numbers that are not finite.
    """
    return pack_blocks(weight, bias, block, functools.partial(_code, block=block, double=double), "nf4: block")


def _code(flat: Tensor, block: int, double: bool) -> Blocks:
    """Return the blocks of consecutive numbers, each number under the value next to it at the scale as it is held."""
    numbers_KS = cut(flat, block)
    values = torch.tensor(VALUES, device=flat.device)
    largest_K = numbers_KS.abs().amax(1)
    small, offsets, factors = shrink_scales(largest_K) if double else (largest_K, None, None)
    packed = Blocks(numbers_KS.new_empty(0), values, small, None, offsets, factors)
    scales_K = scales_of(packed)
    per_scale_KS = numbers_KS / torch.where(scales_K == 0, 1.0, scales_K)[:, None]
    codes_KS = torch.bucketize(per_scale_KS, (values[1:] + values[:-1]) / 2, out_int32=True)
    return packed._replace(codes=join_codes(codes_KS.flatten()))


ENTRY = PrecisionEntry(
    card=Card(
        title="4-bit NormalFloat with double quantisation",
        source="arXiv:2305.14314",
        improves=("memory", "compression"),
        costs=("latency", "quality"),
        note="frozen weights under adapters (QLoRA), against 16-bit weights",
    ),
    pack=pack,
    bits=4 + 8 / 64 + 64 / (64 * 256),
)
