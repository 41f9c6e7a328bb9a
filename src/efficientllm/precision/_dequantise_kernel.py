"""Triton kernel that makes a matrix of its blocks: codes and scales are read once, the matrix is written once."""

# Triton reads annotations: those of pointers and numbers must not be there.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from efficientllm.precision._blocks import SCALE_GROUP, SIZES, Blocks

#: Bytes of codes that a program takes; each gives two numbers, and no block is longer than a program's numbers.
_TILE, _WARPS = 1024, 4


class KernelLaunch(NamedTuple):
    """A launch, with the attributes of `models/kernel_case.py`, which lies above this room."""

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, int]


@triton.jit
def expand(
    codes, values, scales, lows, offsets, factors, out, count,
    SIZE: tl.constexpr, GROUP: tl.constexpr, SMALL: tl.constexpr, LOWS: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Write values[code] * scale + low for a tile of blocks; SMALL says that scales are float8."""
    HALF: tl.constexpr = SIZE // 2
    block = tl.program_id(0).to(tl.int64) * (TILE // HALF) + tl.arange(0, TILE // HALF)
    there = block * SIZE < count
    # What a block has once is read once a block, not once a number.
    if SMALL:
        bits = tl.load(scales + block, mask=there, other=0).to(tl.int16)
        # e4m3 is float16 with a shorter exponent: put in its place, it is 256 times too small, subnormals included.
        size = ((bits & 127) << 7).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
        small = tl.where(bits > 127, -size, size)
        offset = tl.load(offsets + block // GROUP, mask=there, other=0.0)
        scale = offset + tl.load(factors + block // GROUP, mask=there, other=0.0) * small
    else:
        scale = tl.load(scales + block, mask=there, other=0.0).to(tl.float32)
    place = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
    byte = tl.load(codes + place, mask=there[:, None], other=0).to(tl.int32)
    left = tl.load(values + (byte & 15)) * scale[:, None]
    right = tl.load(values + (byte >> 4)) * scale[:, None]
    if LOWS:
        low = tl.load(lows + block, mask=there, other=0.0).to(tl.float32)[:, None]
        left += low
        right += low
    found = tl.interleave(left, right)
    place_out = block[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(out + place_out, found.to(out.dtype.element_ty), mask=place_out < count)


def matrix(packed: Blocks, size: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix `[rows, columns]`."""
    out = packed.codes.new_empty(rows, columns, dtype=dtype)
    small, lows = packed.offsets is not None, packed.lows is not None
    expand[(triton.cdiv(len(packed.codes), _TILE),)](
        packed.codes, packed.values, packed.scales,
        packed.lows if lows else packed.values,
        packed.offsets if small else packed.values,
        packed.factors if small else packed.values,
        out, out.numel(),
        SIZE=size, GROUP=SCALE_GROUP, SMALL=small, LOWS=lows, TILE=_TILE, num_warps=_WARPS,
    )  # fmt: skip
    return out


def aot_cases() -> Iterator[KernelLaunch]:
    """Yield the ways in which the kernel is launched."""
    options = {"num_warps": _WARPS, "num_stages": 3}
    for dtype in ("bf16", "fp16", "fp32"):
        for scales, small, lows in (("u8", True, False), ("fp32", False, False), ("bf16", False, True)):
            kinds = {"codes": "u8", "values": "fp32", "scales": scales, "lows": scales if lows else "fp32"}
            pointers = {name: f"*{kind}" for name, kind in (kinds | {"offsets": "fp32", "factors": "fp32"}).items()}
            for size in (SIZES[0], SIZES[-1]):
                constants = {"SIZE": size, "GROUP": SCALE_GROUP, "SMALL": small, "LOWS": lows, "TILE": _TILE}
                signature = {**pointers, "out": f"*{dtype}", "count": "i32", **dict.fromkeys(constants, "constexpr")}
                yield KernelLaunch(f"expand {scales} {size} to {dtype}", expand, signature, constants, options)
