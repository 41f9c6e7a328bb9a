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

#: Words that a program takes, of eight codes each: what a thread reads at once is what it writes in sixteen bytes.
_TILE, _WARPS = 128, 2


class KernelLaunch(NamedTuple):
    """A launch, with the attributes of `models/kernel_case.py`, which lies above this room."""

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, int]
    since: int = 80


@triton.jit
def expand(
    words, values, scales, lows, offsets, factors, out, count,
    SIZE: tl.constexpr, GROUP: tl.constexpr, SMALL: tl.constexpr, LOWS: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Write values[code] * scale + low for a tile of words; SMALL says that scales are float8."""
    word = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    there = word * 8 < count
    block = word // (SIZE // 8)
    if SMALL:
        bits = tl.load(scales + block, mask=there, other=0).to(tl.int16)
        # e4m3 is float16 with a shorter exponent: put in its place, it is 256 times too small, subnormals included.
        size = ((bits & 127) << 7).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
        small = tl.where(bits > 127, -size, size)
        offset = tl.load(offsets + block // GROUP, mask=there, other=0.0)
        scale = offset + tl.load(factors + block // GROUP, mask=there, other=0.0) * small
    else:
        scale = tl.load(scales + block, mask=there, other=0.0).to(tl.float32)
    eight = tl.arange(0, 8)[None, :]
    code = (tl.load(words + word, mask=there, other=0)[:, None] >> 4 * eight) & 15
    found = tl.load(values + code) * scale[:, None]
    if LOWS:
        found += tl.load(lows + block, mask=there, other=0.0).to(tl.float32)[:, None]
    place = word[:, None] * 8 + eight
    tl.store(out + place, found.to(out.dtype.element_ty), mask=place < count)


def matrix(packed: Blocks, size: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix `[rows, columns]`."""
    out = packed.codes.new_empty(rows, columns, dtype=dtype)
    small, lows = packed.offsets is not None, packed.lows is not None
    words = packed.codes.view(torch.int32)  # a block has eight bytes of codes or more
    expand[(triton.cdiv(len(words), _TILE),)](
        words, packed.values, packed.scales,
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
            kinds = {"words": "i32", "values": "fp32", "scales": scales, "lows": scales if lows else "fp32"}
            pointers = {name: f"*{kind}" for name, kind in (kinds | {"offsets": "fp32", "factors": "fp32"}).items()}
            for size in (SIZES[0], SIZES[-1]):
                constants = {"SIZE": size, "GROUP": SCALE_GROUP, "SMALL": small, "LOWS": lows, "TILE": _TILE}
                signature = {**pointers, "out": f"*{dtype}", "count": "i32", **dict.fromkeys(constants, "constexpr")}
                yield KernelLaunch(f"expand {scales} {size} to {dtype}", expand, signature, constants, options)
