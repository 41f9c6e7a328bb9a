"""Triton kernels for products of few rows with a packed matrix, which is read once and never made.

A program takes some rows of the matrix and a part of the inputs. Codes become numbers in registers, where the matrix
units take them from (they are the left operand, so that 16 tokens suffice); the sums of the parts are added, always in
the same order, by the program of a tile that comes last. What limits a product of one token is then the memory, not
the arithmetic of unpacking: a 4-bit code is put into the mantissa of a bfloat16, two at once, which makes 128 + code,
and the 128 is taken off the sums.
"""

# Triton reads annotations: those of pointers and numbers must not be there.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from efficientllm.precision._dequantise_kernel import KernelLaunch

#: Rows of the matrix that a program takes, and inputs that it takes at once where a row has one scale.
TILE, STEP = 64, 128
#: Programs that are to be there for each multiprocessor, while the parts last: they hide each other's waiting. This,
#: tile and stages were the best, or nearly, of those tried on an H200 (docs/h200/inference).
_PROGRAMS = {8: 4, 4: 6}
OPTIONS = {"num_warps": 4, "num_stages": 3}
#: Groups of more than 128 take twice the room at each stage.
_WIDE_OPTIONS = {"num_warps": 4, "num_stages": 2}
#: Fewest tokens that the matrix units take, and most that a program does.
_LEAST, _MOST_ROWS = 16, 64
#: The most tiles that a product can have.
_MOST_TILES = 2**16
#: Triton's interpreter knows no assembly, and no products in bfloat16.
INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
_KIND = tl.float32 if INTERPRETED else tl.bfloat16


@triton.jit(do_not_specialize=["num_rows", "split"])
def int4_product(
    x, codes, pairs, out, parts, arrived, num_rows, num_outputs, num_groups, split,
    GROUP: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, ALONE: tl.constexpr, PLAIN: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply by (code - 8) * scale + low; a byte holds a code of a group's first half and one of its second.

    A pair is the bits of scale and low; pairs lie group by group.
    """
    HALF: tl.constexpr = GROUP // 2
    tile, part = tl.program_id(0), tl.program_id(1)
    output = tile * TILE + tl.arange(0, TILE)
    row, place = tl.program_id(2) * ROWS + tl.arange(0, ROWS), tl.arange(0, HALF)
    there, given = output < num_outputs, row < num_rows
    each = tl.cdiv(num_groups, split)
    sums = tl.zeros([TILE, ROWS], tl.float32)
    for group in range(part * each, tl.minimum((part + 1) * each, num_groups)):
        at = output[:, None] * (num_groups * HALF) + group * HALF + place[None, :]
        packed = tl.load(codes + at, mask=there[:, None], other=0)
        pair = tl.load(pairs + group * num_outputs + output, mask=there, other=0)
        from_x = x + row[:, None] * (num_groups * GROUP) + group * GROUP + place[None, :]
        first_x = tl.load(from_x, mask=given[:, None], other=0.0)
        second_x = tl.load(from_x + HALF, mask=given[:, None], other=0.0)
        if PLAIN:
            first, second = 128.0 + (packed & 15).to(tl.float32), 128.0 + (packed >> 4).to(tl.float32)
            first_x, second_x = first_x.to(tl.float32), second_x.to(tl.float32)
        else:
            first, second = tl.inline_asm_elementwise(
                """
                {
                .reg .b32 near, far, up;
                shr.u32 up, $4, 4;
                prmt.b32 near, $4, 0x43434343, 0x4140;
                prmt.b32 far, $4, 0x43434343, 0x4342;
                and.b32 $0, near, 0xFF0FFF0F;
                and.b32 $1, far, 0xFF0FFF0F;
                prmt.b32 near, up, 0x43434343, 0x4140;
                prmt.b32 far, up, 0x43434343, 0x4342;
                and.b32 $2, near, 0xFF0FFF0F;
                and.b32 $3, far, 0xFF0FFF0F;
                }
                """,
                "=r,=r,=r,=r,r", [packed], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4,
            )  # fmt: skip
        found = tl.dot(first, tl.trans(first_x))
        found = tl.dot(second, tl.trans(second_x), found)
        scale = (pair << 16).to(tl.float32, bitcast=True)
        low = (pair & -65536).to(tl.float32, bitcast=True)
        total = tl.sum(first_x.to(tl.float32) + second_x.to(tl.float32), 1)
        sums += found * scale[:, None] + (low - 136.0 * scale)[:, None] * total[None, :]
    add_parts(sums, out, parts, arrived, num_rows, num_outputs, split, TILE, ROWS, ALONE)


@triton.jit(do_not_specialize=["num_rows", "split"])
def byte_product(
    x, codes, scales, row_scales, out, parts, arrived, num_rows, num_outputs, num_inputs, split,
    STEP: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, ALONE: tl.constexpr, CAST: tl.constexpr,
    KIND: tl.constexpr, SCALED: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply by code * scale; CAST says that both are made KIND first, SCALED that tokens have scales too."""
    tile, part = tl.program_id(0), tl.program_id(1)
    output = tile * TILE + tl.arange(0, TILE)
    row, place = tl.program_id(2) * ROWS + tl.arange(0, ROWS), tl.arange(0, STEP)
    there, given = output < num_outputs, row < num_rows
    num_steps = tl.cdiv(num_inputs, STEP)
    each = tl.cdiv(num_steps, split)
    sums = tl.zeros([TILE, ROWS], tl.float32)
    for step in range(part * each, tl.minimum((part + 1) * each, num_steps)):
        column = step * STEP + place
        inside = (column < num_inputs)[None, :]
        matrix = tl.load(
            codes + output[:, None] * num_inputs + column[None, :], mask=there[:, None] & inside, other=0.0
        )
        tokens = tl.load(x + row[:, None] * num_inputs + column[None, :], mask=given[:, None] & inside, other=0.0)
        if CAST:
            matrix, tokens = matrix.to(KIND), tokens.to(KIND)
        sums = tl.dot(matrix, tl.trans(tokens), sums)
    sums *= tl.load(scales + output, mask=there, other=0.0).to(tl.float32)[:, None]
    if SCALED:
        sums *= tl.load(row_scales + row, mask=given, other=0.0)[None, :]
    add_parts(sums, out, parts, arrived, num_rows, num_outputs, split, TILE, ROWS, ALONE)


@triton.jit
def add_parts(
    sums, out, parts, arrived, num_rows, num_outputs, split,
    TILE: tl.constexpr, ROWS: tl.constexpr, ALONE: tl.constexpr,
) -> None:  # fmt: skip
    """Store a tile's sums; of several parts the last to arrive adds them all, the first one first."""
    tile, part = tl.program_id(0), tl.program_id(1)
    output, row = tile * TILE + tl.arange(0, TILE), tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    there = (output < num_outputs)[:, None] & (row < num_rows)[None, :]
    place = row[None, :] * num_outputs + output[:, None]
    if ALONE:
        tl.store(out + place, sums.to(out.dtype.element_ty), mask=there)
    else:
        tl.store(parts + part * num_rows * num_outputs + place, sums, mask=there)
        tl.debug_barrier()  # all threads have stored before one of them says so
        counter = arrived + tl.program_id(2) * tl.num_programs(0) + tile
        before = tl.atomic_add(counter, 1, sem="acq_rel")
        if before == split - 1:
            whole = tl.zeros([TILE, ROWS], tl.float32)
            for one in range(split):
                # past the multiprocessor's own cache, which does not know what others have stored
                whole += tl.load(
                    parts + one * num_rows * num_outputs + place, mask=there, other=0.0, cache_modifier=".cg"
                )
            tl.store(out + place, whole.to(out.dtype.element_ty), mask=there)
            tl.store(counter, 0)


def int4_rows(x_MI: Tensor, codes_OB: Tensor, pairs_GO: Tensor) -> Tensor:
    """Return x Wᵀ in x's type; `int4_product` says how codes and pairs lie."""
    num_groups, num_outputs = pairs_GO.shape
    group = x_MI.shape[1] // num_groups
    grid, rows = cut(len(x_MI), num_outputs, num_groups, x_MI.device, 4)
    out_MO, parts = room(x_MI, num_outputs, grid[1], x_MI.dtype)
    int4_product[grid](
        x_MI, codes_OB, pairs_GO, out_MO, parts, arrived(x_MI.device), len(x_MI), num_outputs, num_groups, grid[1],
        GROUP=group, TILE=TILE, ROWS=rows, ALONE=grid[1] == 1, PLAIN=INTERPRETED, **_options(group),
    )  # fmt: skip
    return out_MO


def byte_rows(
    x_MI: Tensor, codes_OI: Tensor, scales_O: Tensor, row_scales_M: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return x Wᵀ in this type, of x in bfloat16, or in the type of the codes with a scale for each row."""
    num_outputs, num_inputs = codes_OI.shape
    grid, rows = cut(len(x_MI), num_outputs, triton.cdiv(num_inputs, STEP), x_MI.device, 8)
    out_MO, parts = room(x_MI, num_outputs, grid[1], dtype)
    byte_product[grid](
        x_MI, codes_OI, scales_O, scales_O if row_scales_M is None else row_scales_M, out_MO, parts,
        arrived(x_MI.device), len(x_MI), num_outputs, num_inputs, grid[1],
        STEP=STEP, TILE=TILE, ROWS=rows, ALONE=grid[1] == 1,
        CAST=row_scales_M is None or INTERPRETED, KIND=_KIND, SCALED=row_scales_M is not None, **OPTIONS,
    )  # fmt: skip
    return out_MO


@lru_cache
def arrived(device: torch.device) -> Tensor:
    """Return how many parts of each tile have come: zeros between two products, which follow each other on a stream.

    It must be there before the first capture of a graph, in which it would be zeroed at every replay or not at all.
    """
    return torch.zeros(_MOST_TILES, dtype=torch.int32, device=device)


def cut(
    num_rows: int, num_outputs: int, num_steps: int, device: torch.device, bits: int
) -> tuple[tuple[int, int, int], int]:
    """Return the programs (tiles of outputs, parts of the inputs, blocks of tokens) and the tokens of a block.

    There are as many parts as make enough programs, none with less than two steps. The more tokens, the more a part's
    sums weigh, and the more of its own waiting a program hides.
    """
    rows = min(max(_LEAST, triton.next_power_of_2(num_rows)), _MOST_ROWS)
    tiles = triton.cdiv(num_outputs, TILE)
    programs = max(2, _PROGRAMS[bits] * _LEAST // rows) * _multiprocessors(device)
    return (tiles, max(1, min(round(programs / tiles), num_steps // 2)), triton.cdiv(num_rows, rows)), rows


def _options(group: int) -> dict[str, int]:
    return OPTIONS if group <= STEP else _WIDE_OPTIONS


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def room(x_MI: Tensor, num_outputs: int, split: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return where the results go, and where the sums of the parts do."""
    out_MO = x_MI.new_empty(len(x_MI), num_outputs, dtype=dtype)
    parts = x_MI.new_empty(split * out_MO.numel() if split > 1 else 0, dtype=torch.float32)
    return out_MO, parts


def aot_cases() -> Iterator[KernelLaunch]:
    """Yield the ways in which the kernels are launched."""
    pointers = {"out": "*bf16", "parts": "*fp32", "arrived": "*i32"}
    counts = dict.fromkeys(("num_rows", "num_outputs"), "i32")
    for rows, alone in ((16, False), (16, True), (_MOST_ROWS, False)):
        constants = {"TILE": TILE, "ROWS": rows, "ALONE": alone}
        for group in (32, 64, 128, 256):
            given = {"GROUP": group, **constants, "PLAIN": False}
            signature = {
                "x": "*bf16", "codes": "*u8", "pairs": "*i32", **pointers, **counts,
                "num_groups": "i32", "split": "i32", **dict.fromkeys(given, "constexpr"),
            }  # fmt: skip
            yield KernelLaunch(f"int4_product {group} {rows} {alone}", int4_product, signature, given, _options(group))
        for codes, since in (("i8", 80), ("fp8e4nv", 89)):
            own = codes != "i8"
            given = {"STEP": STEP, **constants, "CAST": not own, "KIND": _KIND, "SCALED": own}
            signature = {
                "x": f"*{codes}" if own else "*bf16", "codes": f"*{codes}", "scales": "*fp32" if own else "*bf16",
                "row_scales": "*fp32" if own else "*bf16", **pointers, **counts, "num_inputs": "i32", "split": "i32",
                **dict.fromkeys(given, "constexpr"),
            }  # fmt: skip
            yield KernelLaunch(f"byte_product {codes} {rows} {alone}", byte_product, signature, given, OPTIONS, since)
