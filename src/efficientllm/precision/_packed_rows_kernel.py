"""Triton kernels around the products of packed matrices: rows made 8-bit floats, and matrices made whole."""

# Triton reads annotations: those of pointers and numbers must not be there.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from efficientllm.precision._dequantise_kernel import KernelLaunch

#: Bytes of codes that a program of `expand_int4` reads, and numbers that one of `quantise` reads at once.
_EXPANDED, _AT_ONCE = 2048, 4096
_EXPANDING, _QUANTISING = {"num_warps": 4, "num_stages": 3}, {"num_warps": 8, "num_stages": 3}


@triton.jit
def quantise(x, codes, scales, num_inputs, LARGEST: tl.constexpr, TINY: tl.constexpr, STEP: tl.constexpr) -> None:
    """Write a row as 8-bit floats whose largest size is LARGEST, and its scale."""
    row, place = tl.program_id(0).to(tl.int64), tl.arange(0, STEP)
    most = tl.zeros([STEP], tl.float32)
    for start in range(0, num_inputs, STEP):
        numbers = tl.load(x + row * num_inputs + start + place, mask=start + place < num_inputs, other=0.0)
        most = tl.maximum(most, tl.abs(numbers.to(tl.float32)))
    scale = tl.maximum(tl.max(most, 0) / LARGEST, TINY)
    tl.store(scales + row, scale)
    for start in range(0, num_inputs, STEP):
        inside = start + place < num_inputs
        numbers = tl.load(x + row * num_inputs + start + place, mask=inside, other=0.0).to(tl.float32)
        near = tl.minimum(tl.maximum(numbers / scale, -LARGEST), LARGEST)
        tl.store(codes + row * num_inputs + start + place, near.to(codes.dtype.element_ty), mask=inside)


@triton.jit
def expand_int4(
    codes, pairs, out, num_outputs, num_groups, HALF: tl.constexpr, TILE: tl.constexpr
) -> None:  # fmt: skip
    """Write (code - 8) * scale + low for a tile of groups of one row."""
    output, of_row = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    there = of_row < num_groups
    group = output * num_groups + of_row
    place = tl.arange(0, HALF)[None, :]
    packed = tl.load(codes + group[:, None] * HALF + place, mask=there[:, None], other=0)
    pair = tl.load(pairs + of_row * num_outputs + output, mask=there, other=0)[:, None]
    scale, low = (pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True)
    to = out + group[:, None] * (2 * HALF) + place
    kind = out.dtype.element_ty
    tl.store(to, (((packed & 15).to(tl.float32) - 8.0) * scale + low).to(kind), mask=there[:, None])
    tl.store(to + HALF, (((packed >> 4).to(tl.float32) - 8.0) * scale + low).to(kind), mask=there[:, None])


@triton.jit
def expand_rows(codes, scales, out, num_inputs, STEP: tl.constexpr) -> None:
    """Write code * scale for a stretch of a row."""
    row, place = tl.program_id(0).to(tl.int64), tl.program_id(1) * STEP + tl.arange(0, STEP)
    inside = place < num_inputs
    found = tl.load(codes + row * num_inputs + place, mask=inside, other=0.0).to(tl.float32)
    found *= tl.load(scales + row).to(tl.float32)
    tl.store(out + row * num_inputs + place, found.to(out.dtype.element_ty), mask=inside)


def quantised(x_MI: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows as 8-bit floats of this type, and the scale of each, M1 in float32."""
    codes_MI, scales_M1 = x_MI.new_empty(x_MI.shape, dtype=kind), x_MI.new_empty(len(x_MI), 1, dtype=torch.float32)
    step = min(_AT_ONCE, triton.next_power_of_2(x_MI.shape[1]))
    quantise[(len(x_MI),)](
        x_MI, codes_MI, scales_M1, x_MI.shape[1],
        LARGEST=torch.finfo(kind).max, TINY=torch.finfo(torch.float32).tiny, STEP=step, **_QUANTISING,
    )  # fmt: skip
    return codes_MI, scales_M1


def int4_matrix(codes_OB: Tensor, pairs_GO: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the matrix, OI in this type."""
    num_groups, num_outputs = pairs_GO.shape
    half = codes_OB.shape[1] // num_groups
    out_OI = codes_OB.new_empty(num_outputs, 2 * codes_OB.shape[1], dtype=dtype)
    tile = min(_EXPANDED // half, triton.next_power_of_2(num_groups))
    grid = (num_outputs, triton.cdiv(num_groups, tile))
    expand_int4[grid](codes_OB, pairs_GO, out_OI, num_outputs, num_groups, HALF=half, TILE=tile, **_EXPANDING)
    return out_OI


def rows_matrix(codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the matrix of codes in int8 or float8, OI in this type."""
    (num_outputs, num_inputs), out_OI = codes_OI.shape, codes_OI.new_empty(codes_OI.shape, dtype=dtype)
    step = min(_AT_ONCE, triton.next_power_of_2(num_inputs))
    expand_rows[(num_outputs, triton.cdiv(num_inputs, step))](
        codes_OI, scales_O, out_OI, num_inputs, STEP=step, **_EXPANDING
    )
    return out_OI


def aot_cases() -> Iterator[KernelLaunch]:
    """Yield the ways in which the kernels are launched."""
    given = {"LARGEST": 448.0, "TINY": torch.finfo(torch.float32).tiny, "STEP": _AT_ONCE}
    signature = {"x": "*bf16", "codes": "*fp8e4nv", "scales": "*fp32", "num_inputs": "i32"}
    signature |= dict.fromkeys(given, "constexpr")
    yield KernelLaunch("quantise", quantise, signature, given, _QUANTISING, 89)
    for half in (16, 64):
        given = {"HALF": half, "TILE": _EXPANDED // half}
        signature = {
            "codes": "*u8",
            "pairs": "*i32",
            "out": "*bf16",
            **dict.fromkeys(("num_outputs", "num_groups"), "i32"),
        }
        signature |= dict.fromkeys(given, "constexpr")
        yield KernelLaunch(f"expand_int4 {half}", expand_int4, signature, given, _EXPANDING)
    for codes, since in (("i8", 80), ("fp8e4nv", 89)):
        signature = {"codes": f"*{codes}", "scales": "*fp32", "out": "*bf16", "num_inputs": "i32", "STEP": "constexpr"}
        yield KernelLaunch(f"expand_rows {codes}", expand_rows, signature, {"STEP": _AT_ONCE}, _EXPANDING, since)
