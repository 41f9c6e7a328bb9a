"""A matrix in blocks of 4-bit codes: how it is cut, coded and read back, whatever the format.

The matrix is taken row after row, as its memory lies, and cut into blocks; a row that ends inside a block leaves the
rest of it to the next row, and the last block is filled up with its last number. Number n of block b is

    values[code_n] * scale_b + low_b                with 16 values of the format

Two codes lie in a byte, the first one in its lower half. Letters:

    N  numbers, filled up    P  bytes of codes, N / 2    K  blocks    G  groups of 256 blocks
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Blocks that share an offset and a factor where the scales themselves are held in 8 bits.
SCALE_GROUP = 256

#: Sizes that a block can have: the kernel counts them in shifts.
SIZES = (16, 32, 64, 128, 256, 512, 1024)


class Blocks(NamedTuple):
    """A packed matrix.

    Attributes:
        codes: P, uint8.
        values: what the 16 codes mean, float32.
        scales: K, of each block: in a float type; or, with offsets, the bits of a float8 (e4m3) in uint8.
        lows: K, what is added to each block, None for nothing.
        offsets: G, float32, with factors: the scale of a block is offset + factor * float8.
        factors: G, float32.
    """

    codes: Tensor
    values: Tensor
    scales: Tensor
    lows: Tensor | None = None
    offsets: Tensor | None = None
    factors: Tensor | None = None


def cut(flat: Tensor, size: int) -> Tensor:
    """Return numbers in float32 as blocks `[K, size]`, the last one filled up with its last number."""
    missing = -len(flat) % size
    filled = flat if not missing else F.pad(flat[None], (0, missing), mode="replicate")[0]
    return filled.float().view(-1, size)


def join_codes(codes_N: Tensor) -> Tensor:
    """Return 4-bit codes, an integer each, two a byte.

    >>> join_codes(torch.tensor([1, 2, 15, 0])).tolist()
    [33, 15]
    """
    pairs = codes_N.to(torch.uint8).view(-1, 2)
    return pairs[:, 0] | pairs[:, 1] << 4


def split_codes(codes_P: Tensor) -> Tensor:
    """Return the codes of bytes, int32, in order.

    >>> split_codes(torch.tensor([33, 15], dtype=torch.uint8)).tolist()
    [1, 2, 15, 0]
    """
    wide = codes_P.int()
    return torch.stack((wide & 15, wide >> 4), -1).flatten()


def shrink_scales(scales_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scales in 8 bits: float8's bits K, offsets and factors G.

    The offset is the median of a group, not the mean of arXiv:2305.14314: one outlier draws the mean away from all
    other blocks, whose scales a float8 of the distance then spoils.
    """
    grouped_GS = cut(scales_K, SCALE_GROUP)
    offsets_G = grouped_GS.median(1).values
    apart_GS = grouped_GS - offsets_G[:, None]
    largest = torch.finfo(torch.float8_e4m3fn).max
    factors_G = apart_GS.abs().amax(1) / largest
    per_factor = apart_GS / torch.where(factors_G > 0, factors_G, 1.0)[:, None]
    small = per_factor.clamp(-largest, largest).to(torch.float8_e4m3fn).view(torch.uint8)
    return small.flatten()[: len(scales_K)].clone(), offsets_G, factors_G


def scales_of(packed: Blocks) -> Tensor:
    """Return the scale of each block, K in float32."""
    if packed.offsets is None or packed.factors is None:
        return packed.scales.float()
    small_K = packed.scales.view(torch.float8_e4m3fn).float()
    group = torch.arange(len(small_K), device=small_K.device) // SCALE_GROUP
    return packed.offsets[group] + packed.factors[group] * small_K


def plain_matrix(packed: Blocks, size: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix `[rows, columns]` in the plainest form, to which the kernel is held."""
    found_KS = packed.values[split_codes(packed.codes)].view(-1, size) * scales_of(packed)[:, None]
    if packed.lows is not None:
        found_KS += packed.lows.float()[:, None]
    return found_KS.flatten()[: rows * columns].view(rows, columns).to(dtype)
