"""Four-bit whole numbers with a step and a zero for each group: the arithmetic of int4 and of what rounds otherwise.

A code c of 0 … 15 in a group with step s and zero z means (c - 8) s + z; step and zero are held as bfloat16.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from efficientllm.precision._blocks import Blocks, cut, join_codes
from efficientllm.precision._layer import BlockLinear, pack_blocks

#: The code whose value is the zero of its group, and the largest one.
ZERO_CODE, TOP = 8, 15


def pack_nearest(weight: Tensor, bias: Tensor | None, group: int, option: str) -> BlockLinear:
    """Return the layer of a matrix, each number rounded to the nearest value of its group.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.
        group: numbers that share a step and a zero.
        option: what the format calls the group.

    Raises:
        UserError: a group that no block can have, or a matrix with numbers that are not finite.
    """
    return pack_blocks(weight, bias, group, functools.partial(_code, group=group), option)


def nearest(numbers: Tensor, steps: Tensor, zeros: Tensor) -> Tensor:
    """Return the codes of the nearest values, as floats; all three have one shape, or shapes that broadcast."""
    return ((numbers - zeros) / torch.where(steps == 0, 1.0, steps) + ZERO_CODE).round().clamp(0, TOP)


def values_of(codes: Tensor, steps: Tensor, zeros: Tensor) -> Tensor:
    """Return what codes mean, in the type of all three."""
    return (codes - ZERO_CODE) * steps + zeros


def _code(flat: Tensor, group: int) -> Blocks:
    """Return the blocks of consecutive numbers; codes are chosen for step and zero as bfloat16 holds them."""
    numbers_KS = cut(flat, group)
    low_K, high_K = numbers_KS.aminmax(dim=1)
    steps_K = ((high_K - low_K) / TOP).bfloat16()
    # The middle of the range lies between the codes 7 and 8: so what rounding does to the step is shared by both ends.
    zeros_K = ((low_K + high_K + steps_K.float()) / 2).bfloat16()
    codes_KS = nearest(numbers_KS, steps_K.float()[:, None], zeros_K.float()[:, None])
    values = torch.arange(TOP + 1.0, device=flat.device) - ZERO_CODE
    return Blocks(join_codes(codes_KS.flatten()), values, steps_K, zeros_K)
