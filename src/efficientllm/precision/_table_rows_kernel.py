"""Triton kernel for products of few rows with a matrix in blocks of 4-bit codes, whatever their sixteen values are.

As in `_few_rows_kernel.py`, but a code is looked up: the values' two bytes lie in eight words, and byte permutations
take four codes' bytes out of them at once, about three instructions a code. The values are rounded to bfloat16.
"""

# Triton reads annotations: those of pointers and numbers must not be there.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from efficientllm.precision._blocks import SCALE_GROUP, Blocks
from efficientllm.precision._dequantise_kernel import KernelLaunch
from efficientllm.precision._few_rows_kernel import INTERPRETED, OPTIONS, STEP, TILE, add_parts, arrived, cut, room


@triton.jit(do_not_specialize=["num_rows", "split"])
def table_product(
    x, codes, values, scales, lows, offsets, factors, out, parts, arrived,
    num_rows, num_outputs, num_inputs, split,
    LOOKUP: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, SMALL: tl.constexpr, LOWS: tl.constexpr,
    STEP: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, ALONE: tl.constexpr, PLAIN: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply by values[code] * scale + low; two codes that follow each other lie in a byte."""
    HALF: tl.constexpr = STEP // 2
    tile, part = tl.program_id(0), tl.program_id(1)
    output = tile * TILE + tl.arange(0, TILE)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    there, given = output < num_outputs, row < num_rows
    num_steps = num_inputs // STEP
    each = tl.cdiv(num_steps, split)
    sums = tl.zeros([TILE, ROWS], tl.float32)
    for step in range(part * each, tl.minimum((part + 1) * each, num_steps)):
        place = step * HALF + tl.arange(0, HALF)
        packed = tl.load(codes + output[:, None] * (num_inputs // 2) + place[None, :], mask=there[:, None], other=0)
        block = output * (num_inputs // SIZE) + step * STEP // SIZE
        if SMALL:
            bits = tl.load(scales + block, mask=there, other=0).to(tl.int16)
            # e4m3 is float16 with a shorter exponent, as in `_dequantise_kernel.py`
            size = ((bits & 127) << 7).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
            offset = tl.load(offsets + block // GROUP, mask=there, other=0.0)
            factor = tl.load(factors + block // GROUP, mask=there, other=0.0)
            scale = offset + factor * tl.where(bits > 127, -size, size)
        else:
            scale = tl.load(scales + block, mask=there, other=0.0).to(tl.float32)
        column = step * STEP + tl.arange(0, STEP)
        tokens = tl.load(x + row[:, None] * num_inputs + column[None, :], mask=given[:, None], other=0.0)
        first_x, second_x = tl.split(tl.reshape(tokens, [ROWS, HALF, 2]))
        if PLAIN:
            first, second = tl.load(values + (packed & 15)), tl.load(values + (packed >> 4))
            first_x, second_x = first_x.to(tl.float32), second_x.to(tl.float32)
        else:
            first, second = tl.inline_asm_elementwise(
                LOOKUP, "=r,=r,=r,=r,r", [packed], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
            )
        found = tl.dot(first, tl.trans(first_x))
        found = tl.dot(second, tl.trans(second_x), found)
        sums += found * scale[:, None]
        if LOWS:
            low = tl.load(lows + block, mask=there, other=0.0).to(tl.float32)
            sums += low[:, None] * tl.sum(tokens.to(tl.float32), 1)[None, :]
    add_parts(sums, out, parts, arrived, num_rows, num_outputs, split, TILE, ROWS, ALONE)


def table_rows(x_MI: Tensor, packed: Blocks, lookup: str, size: int, num_outputs: int) -> Tensor:
    """Return x Wᵀ in x's type.

    Args:
        x_MI: bfloat16; a row of the matrix is whole blocks.
        packed: the blocks of the matrix.
        lookup: `assembly` of its values.
        size: numbers of a block, 32 at least.
        num_outputs: rows of the matrix.
    """
    step = min(size, STEP)
    grid, rows = cut(len(x_MI), num_outputs, x_MI.shape[1] // step, x_MI.device, 4)
    out_MO, parts = room(x_MI, num_outputs, grid[1], x_MI.dtype)
    small, lows = packed.offsets is not None, packed.lows is not None
    table_product[grid](
        x_MI, packed.codes, packed.values, packed.scales,
        packed.lows if lows else packed.values,
        packed.offsets if small else packed.values,
        packed.factors if small else packed.values,
        out_MO, parts, arrived(x_MI.device), len(x_MI), num_outputs, x_MI.shape[1], grid[1],
        LOOKUP=lookup, SIZE=size, GROUP=SCALE_GROUP, SMALL=small, LOWS=lows,
        STEP=step, TILE=TILE, ROWS=rows, ALONE=grid[1] == 1, PLAIN=INTERPRETED, **OPTIONS,
    )  # fmt: skip
    return out_MO


@lru_cache
def assembly(values: tuple[float, ...]) -> str:
    """Return the instructions that make eight bfloat16 values of four bytes of codes: first the lower halves' four."""
    bits = torch.tensor(values).bfloat16().view(torch.int16).tolist()
    low, high = ([value >> shift & 255 for value in bits] for shift in (0, 8))
    lines = [".reg .b32 half, which, near, far, low, high;"]
    for number in (0, 1):
        lines.append(f"shr.u32 half, $4, {16 * number};")
        # the fourth bit of each code says from which eight values it takes its byte
        lines += ["shr.u32 which, half, 1;", "and.b32 which, which, 0x4444;", "or.b32 which, which, 0x3210;"]
        lines.append("and.b32 half, half, 0x7777;")
        for name, plane in (("low", low), ("high", high)):
            words = _words(plane)
            lines.append(f"prmt.b32 near, {words[0]}, {words[1]}, half;")
            lines.append(f"prmt.b32 far, {words[2]}, {words[3]}, half;")
            lines.append(f"prmt.b32 {name}, near, far, which;")
        lines.append(f"prmt.b32 ${number}, low, high, 0x6240;")
        lines.append(f"prmt.b32 ${number + 2}, low, high, 0x7351;")
    # One line: torch's compiler copies an operator's arguments into comments of the code that it writes.
    return "{ " + " ".join(lines) + " }"


def _words(plane: Sequence[int]) -> list[str]:
    """Return bytes as words, the first byte lowest."""
    return [f"0x{int.from_bytes(bytes(plane[at : at + 4]), 'little'):08X}" for at in range(0, len(plane), 4)]


def aot_cases() -> Iterator[KernelLaunch]:
    """Yield the ways in which the kernel is launched."""
    lookup = assembly(tuple(number / 8 - 1 for number in range(16)))
    pointers = {"x": "*bf16", "codes": "*u8", "values": "*fp32"}
    for rows, alone in ((16, False), (64, True)):
        for scales, small, lows in (("u8", True, False), ("fp32", False, False), ("bf16", False, True)):
            for size in (32, 64, 256):
                constants = {
                    "LOOKUP": lookup, "SIZE": size, "GROUP": SCALE_GROUP, "SMALL": small, "LOWS": lows,
                    "STEP": min(size, STEP), "TILE": TILE, "ROWS": rows, "ALONE": alone, "PLAIN": False,
                }  # fmt: skip
                signature = {
                    **pointers, "scales": f"*{scales}", "lows": "*bf16" if lows else "*fp32", "offsets": "*fp32",
                    "factors": "*fp32", "out": "*bf16", "parts": "*fp32", "arrived": "*i32",
                    **dict.fromkeys(("num_rows", "num_outputs", "num_inputs", "split"), "i32"),
                    **dict.fromkeys(constants, "constexpr"),
                }  # fmt: skip
                yield KernelLaunch(
                    f"table_product {scales} {size} {rows} {alone}", table_product, signature, constants, OPTIONS
                )
