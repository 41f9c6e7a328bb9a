"""NSA's selected branch on CUDA: Triton kernels, forward and backward. Needs Triton to import.

A program of the forward pass serves one token and one key/value head: its group of query heads, padded to 16 rows for
the tensor cores (groups of 6, 7 and 8 fill 38, 44 and 50 % of them), goes over the blocks that it selected. The
gradients of keys and values go the other way: a program has a tile of keys and a list of (query, block) pairs that
reach into it; there rows of several queries lie side by side and nothing is padded but the end of the list.

Blocks are given by the index of their first token among the keys (-1: none), so that packed rows need nothing more: a
token sees the keys of a block up to itself, and those are of its own sequence.

Powers of two are taken in place of e: exp2 is what the hardware has; `log2_scale` is the scores' factor over ln 2.
"""

# Triton reads annotations: those of pointers and numbers must not be there.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from efficientllm.models.kernel_case import KernelCase
from efficientllm.models.mixers._nsa_blocks import rows_of
from efficientllm.models.shape import resolve_shape
from efficientllm.records.model_settings import ModelSettings


@dataclass(frozen=True)
class Tiles:
    """Sizes of a launch, powers of two from 16 on.

    Attributes:
        rows: query heads of a token, padded.
        list_rows: rows of queries that a program of `backward_keys` takes at once.
        wide: width of a head, padded.
        tile: keys at once.
        num_warps, num_stages: Triton's.
    """

    rows: int
    list_rows: int
    wide: int
    tile: int
    num_warps: int
    num_stages: int


def tiles_of(group: int, head_dim: int, select_block: int, dtype_bytes: int) -> Tiles:
    """Return sizes that need at most 99 KiB of shared memory.

    >>> tiles_of(7, 64, 64, 2).rows, tiles_of(7, 64, 48, 2).tile, tiles_of(20, 96, 512, 2).tile
    (16, 64, 64)
    """
    most_keys = 64 if dtype_bytes == 2 else 32
    wide, tile = (max(16, triton.next_power_of_2(x)) for x in (head_dim, min(most_keys, select_block)))
    return Tiles(
        rows=rows_of(group),
        list_rows=32,
        wide=wide,
        tile=tile,
        num_warps=4,
        num_stages=2 if dtype_bytes == 2 else 1,
    )


@triton.jit
def forward(
    q_ptr, k_ptr, v_ptr, start_ptr, out_ptr, lse_ptr, new, past,
    log2_scale, q_b, q_n, q_t, k_b, k_k, k_s, v_b, v_k, v_s,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD: tl.constexpr, SELECT: tl.constexpr, PICKS: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Write the branch's result, BNTH, and the log2 of each row's sum, BNT."""
    t = tl.program_id(0).to(tl.int64)
    bk = tl.program_id(1).to(tl.int64)
    b, kv = bk // KV_HEADS, bk % KV_HEADS
    row, wide, tile = tl.arange(0, ROWS), tl.arange(0, WIDE), tl.arange(0, TILE)
    is_row, is_wide = row < GROUP, wide < HEAD
    q_at = q_ptr + b * q_b + (kv * GROUP + row[:, None]) * q_n + t * q_t + wide[None]
    q = tl.load(q_at, mask=is_row[:, None] & is_wide[None], other=0.0)
    most = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, WIDE), tl.float32)
    parts: tl.constexpr = (SELECT + TILE - 1) // TILE
    for step in range(PICKS * parts):  # one loop, so that the loads of the next step run ahead
        start = tl.load(start_ptr + (bk * new + t) * PICKS + step // parts).to(tl.int64)
        inner = step % parts * TILE
        key = start + inner + tile
        seen = (start >= 0) & (key <= past + t) & (inner + tile < SELECT)
        is_key = seen[:, None] & is_wide[None]
        k = tl.load(k_ptr + b * k_b + kv * k_k + key[:, None] * k_s + wide[None], mask=is_key, other=0.0)
        v = tl.load(v_ptr + b * v_b + kv * v_k + key[:, None] * v_s + wide[None], mask=is_key, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * log2_scale
        score = tl.where(seen[None], score, -float("inf"))
        now = tl.maximum(most, tl.max(score, 1))
        finite = tl.where(now == -float("inf"), 0.0, now)
        weight = tl.exp2(score - finite[:, None])
        shrink = tl.exp2(most - finite)
        total = total * shrink + tl.sum(weight, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
        most = now
    head = (bk * GROUP + row) * new + t
    out = (mixed / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + head[:, None] * HEAD + wide[None], out, mask=is_row[:, None] & is_wide[None])
    tl.store(lse_ptr + head, most + tl.log2(total), mask=is_row)


@triton.jit
def backward_queries(
    q_ptr, k_ptr, v_ptr, start_ptr, lse_ptr, delta_ptr, pull_ptr, grad_ptr,
    new, past, log2_scale, scale,
    q_b, q_n, q_t, k_b, k_k, k_s, v_b, v_k, v_s,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD: tl.constexpr, SELECT: tl.constexpr, PICKS: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Write the gradient of the queries, BNTH, of `pull`, the gradient of the result (BNTH, contiguous)."""
    t = tl.program_id(0).to(tl.int64)
    bk = tl.program_id(1).to(tl.int64)
    b, kv = bk // KV_HEADS, bk % KV_HEADS
    row, wide, tile = tl.arange(0, ROWS), tl.arange(0, WIDE), tl.arange(0, TILE)
    is_row, is_wide = row < GROUP, wide < HEAD
    is_query = is_row[:, None] & is_wide[None]
    head = (bk * GROUP + row) * new + t
    q_at = q_ptr + b * q_b + (kv * GROUP + row[:, None]) * q_n + t * q_t + wide[None]
    q = tl.load(q_at, mask=is_query, other=0.0)
    pull = tl.load(pull_ptr + head[:, None] * HEAD + wide[None], mask=is_query, other=0.0)
    lse = tl.load(lse_ptr + head, mask=is_row, other=0.0)
    delta = tl.load(delta_ptr + head, mask=is_row, other=0.0)
    grad = tl.zeros((ROWS, WIDE), tl.float32)
    parts: tl.constexpr = (SELECT + TILE - 1) // TILE
    for step in range(PICKS * parts):  # one loop, so that the loads of the next step run ahead
        start = tl.load(start_ptr + (bk * new + t) * PICKS + step // parts).to(tl.int64)
        inner = step % parts * TILE
        key = start + inner + tile
        seen = (start >= 0) & (key <= past + t) & (inner + tile < SELECT)
        is_key = seen[:, None] & is_wide[None]
        k = tl.load(k_ptr + b * k_b + kv * k_k + key[:, None] * k_s + wide[None], mask=is_key, other=0.0)
        v = tl.load(v_ptr + b * v_b + kv * v_k + key[:, None] * v_s + wide[None], mask=is_key, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * log2_scale
        weight = tl.where(seen[None], tl.exp2(score - lse[:, None]), 0.0)
        change = weight * (tl.dot(pull, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        grad += tl.dot(change.to(k.dtype), k, input_precision=PRECISION)
    out = (grad * scale).to(grad_ptr.dtype.element_ty)
    tl.store(grad_ptr + head[:, None] * HEAD + wide[None], out, mask=is_query)


@triton.jit
def backward_keys(
    q_ptr, k_ptr, v_ptr, query_ptr, start_ptr, tile_ptr, low_ptr, high_ptr,
    lse_ptr, delta_ptr, pull_ptr, part_k_ptr, part_v_ptr,
    new, past, num_pairs, num_pieces, num_keys, log2_scale, scale,
    q_b, q_n, q_t, k_b, k_k, k_s, v_b, v_k, v_s,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD: tl.constexpr, SELECT: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Write what one piece of a tile's list adds to the gradients of its keys and values, float32.

    Pairs (query, block) are sorted by tile; a piece is the pairs from `low` to before `high`.
    """
    piece = tl.program_id(0).to(tl.int64)
    bk = tl.program_id(1).to(tl.int64)
    b, kv = bk // KV_HEADS, bk % KV_HEADS
    at = bk * num_pieces + piece
    low, high = tl.load(low_ptr + at), tl.load(high_ptr + at)
    if low < high:
        row, wide, tile = tl.arange(0, ROWS), tl.arange(0, WIDE), tl.arange(0, TILE)
        is_wide = wide < HEAD
        key = tl.load(tile_ptr + at).to(tl.int64) * TILE + tile
        is_key = (key < num_keys)[:, None] & is_wide[None]
        k = tl.load(k_ptr + b * k_b + kv * k_k + key[:, None] * k_s + wide[None], mask=is_key, other=0.0)
        v = tl.load(v_ptr + b * v_b + kv * v_k + key[:, None] * v_s + wide[None], mask=is_key, other=0.0)
        grad_k = tl.zeros((TILE, WIDE), tl.float32)
        grad_v = tl.zeros((TILE, WIDE), tl.float32)
        for first in range(0, (high - low) * GROUP, ROWS):
            pair = low + (first + row) // GROUP
            is_row = pair < high
            t = tl.load(query_ptr + bk * num_pairs + pair, mask=is_row, other=0).to(tl.int64)
            start = tl.load(start_ptr + bk * num_pairs + pair, mask=is_row, other=0).to(tl.int64)
            member = (first + row) % GROUP
            is_query = is_row[:, None] & is_wide[None]
            head = (bk * GROUP + member) * new + t
            q_at = q_ptr + b * q_b + (kv * GROUP + member[:, None]) * q_n + t[:, None] * q_t + wide[None]
            q = tl.load(q_at, mask=is_query, other=0.0)
            pull = tl.load(pull_ptr + head[:, None] * HEAD + wide[None], mask=is_query, other=0.0)
            lse = tl.load(lse_ptr + head, mask=is_row, other=0.0)
            delta = tl.load(delta_ptr + head, mask=is_row, other=0.0)
            seen = (key[:, None] >= start[None]) & (key[:, None] < start[None] + SELECT)
            seen = seen & (key[:, None] <= past + t[None]) & is_row[None]
            score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * log2_scale
            weight = tl.where(seen, tl.exp2(score - lse[None]), 0.0)
            grad_v += tl.dot(weight.to(pull.dtype), pull, input_precision=PRECISION)
            change = weight * (tl.dot(v, tl.trans(pull), input_precision=PRECISION) - delta[None])
            grad_k += tl.dot(change.to(q.dtype), q, input_precision=PRECISION)
        out = at * TILE * HEAD + tile[:, None] * HEAD + wide[None]
        tl.store(part_k_ptr + out, grad_k * scale, mask=is_wide[None])
        tl.store(part_v_ptr + out, grad_v, mask=is_wide[None])


@triton.jit
def sum_pieces(
    part_k_ptr, part_v_ptr, bound_ptr, grad_k_ptr, grad_v_ptr,
    num_pieces, num_tiles, num_keys, HEAD: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Add up the pieces of a tile, always in the same order, into the gradients of keys and values, BKSH."""
    number = tl.program_id(0).to(tl.int64)
    bk = tl.program_id(1).to(tl.int64)
    wide, tile = tl.arange(0, WIDE), tl.arange(0, TILE)
    inside = tile[:, None] * HEAD + wide[None]
    is_wide = wide[None] < HEAD
    low = tl.load(bound_ptr + bk * (num_tiles + 1) + number)
    high = tl.load(bound_ptr + bk * (num_tiles + 1) + number + 1)
    grad_k = tl.zeros((TILE, WIDE), tl.float32)
    grad_v = tl.zeros((TILE, WIDE), tl.float32)
    for piece in range(low, high):
        at = (bk * num_pieces + piece) * TILE * HEAD + inside
        grad_k += tl.load(part_k_ptr + at, mask=is_wide, other=0.0)
        grad_v += tl.load(part_v_ptr + at, mask=is_wide, other=0.0)
    key = number * TILE + tile
    out = (bk * num_keys + key[:, None]) * HEAD + wide[None]
    is_key = (key < num_keys)[:, None] & is_wide
    tl.store(grad_k_ptr + out, grad_k.to(grad_k_ptr.dtype.element_ty), mask=is_key)
    tl.store(grad_v_ptr + out, grad_v.to(grad_v_ptr.dtype.element_ty), mask=is_key)


#: Pointers to other things than numbers of the model's type, and arguments that are no whole numbers.
_TYPES = {
    **dict.fromkeys(("start_ptr", "query_ptr", "tile_ptr", "low_ptr", "high_ptr", "bound_ptr"), "*i32"),
    **dict.fromkeys(("lse_ptr", "delta_ptr", "part_k_ptr", "part_v_ptr"), "*fp32"),
    **dict.fromkeys(("log2_scale", "scale"), "fp32"),
}


def aot_cases() -> Iterator[KernelCase]:
    """Yield the launches of the sizes that the paper trains, and of the largest group and head that are served."""
    layouts = set()
    for name in ("0.5b", "1.5b", "3b"):
        shape = resolve_shape(ModelSettings(size=name), vocab_tokens=2)
        layouts.add((shape.num_heads // shape.num_kv_heads, shape.head_dim, "bf16"))
    layouts |= {(32, 128, "bf16"), (32, 128, "fp32")}
    for group, head_dim, number in sorted(layouts):
        for function in (forward, backward_queries, backward_keys, sum_pieces):
            yield _case(function, group, head_dim, number)


def _case(function: Any, group: int, head_dim: int, number: str) -> KernelCase:
    tiles = tiles_of(group, head_dim, select_block=64, dtype_bytes=4 if number == "fp32" else 2)
    constants = {
        "KV_HEADS": 2,
        "GROUP": group,
        "HEAD": head_dim,
        "SELECT": 64,
        "PICKS": 4,
        "ROWS": tiles.list_rows if function is backward_keys else tiles.rows,
        "WIDE": tiles.wide,
        "TILE": tiles.tile,
        "PRECISION": "ieee" if number == "fp32" else "tf32",
    }
    names = function.arg_names
    kinds = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names} | _TYPES
    return KernelCase(
        name=f"{function.__name__}, groups of {group}, heads of {head_dim}, {number}",
        kernel=function,
        signature={name: "constexpr" if name in constants else kinds[name] for name in names},
        constants={name: value for name, value in constants.items() if name in names},
        options={"num_warps": tiles.num_warps, "num_stages": tiles.num_stages},
    )
