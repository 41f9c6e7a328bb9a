"""NSA's selected branch as an operator of torch over the Triton kernels: differentiable, and opaque to compilers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from efficientllm.models.mixers import _nsa_kernel as kernel
from efficientllm.models.mixers._nsa_kernel import MAX_HEAD_DIM as MAX_HEAD_DIM

#: (query, block) pairs of a piece, the work of one program of `backward_keys`: the first block is in every query's
#: choice, and its list would keep one program busy long after the others are done.
PAIRS_PER_PIECE = 256


def selected_attention(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, starts_BKTn: Tensor, scale: float, select_block: int, aligned: bool
) -> Tensor:
    """Return the attention BNTH of each query to the blocks that it selected, up to itself.

    Args:
        q_BNTH: queries; the last T of S tokens.
        k_BKSH: keys.
        v_BKSH: values.
        starts_BKTn: index of the first key of each selected block, -1 for none; the first of a query is one.
        scale: factor of the scores.
        select_block: keys of a block.
        aligned: whether all blocks start at a multiple of `select_block`.
    """
    k_BKSH, v_BKSH = k_BKSH.to(q_BNTH.dtype), v_BKSH.to(q_BNTH.dtype)
    q_BNTH, k_BKSH, v_BKSH = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BNTH, k_BKSH, v_BKSH))
    out_BNTH: Tensor = _forward(q_BNTH, k_BKSH, v_BKSH, starts_BKTn.int(), scale, select_block, aligned)[0]
    return out_BNTH


@torch.library.custom_op("efficientllm::nsa_selected", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float, select_block: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)
    tiles, sizes = _sizes(q, k, starts, select_block)
    kernel.forward[(q.shape[2], k.shape[0] * k.shape[1])](
        q, k, v, starts.contiguous(), out, lse, q.shape[2], k.shape[2] - q.shape[2], scale / math.log(2),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], **sizes, PICKS=starts.shape[3], ROWS=tiles.rows,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    return out, lse


@torch.library.custom_op("efficientllm::nsa_selected_backward", mutates_args=())
def _backward(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, out: Tensor, lse: Tensor, pull: Tensor,
    scale: float, select_block: int, aligned: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    pull, starts = pull.contiguous(), starts.contiguous()
    delta = (pull.float() * out.float()).sum(-1)
    (batch, _, new, head_dim), (num_kv_heads, num_keys) = q.shape, k.shape[1:3]
    tiles, sizes = _sizes(q, k, starts, select_block)
    launch = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    past, factors = num_keys - new, (scale / math.log(2), scale)
    grad_q = q.new_empty(q.shape)
    kernel.backward_queries[(new, batch * num_kv_heads)](
        q, k, v, starts, lse, delta, pull, grad_q, new, past, *factors, *strides, **sizes, PICKS=starts.shape[3],
        ROWS=tiles.rows, **launch,
    )  # fmt: skip
    lists = pieces_of(starts.flatten(0, 1), num_keys, select_block, tiles.tile, aligned)
    num_pieces, num_tiles = lists["tile"].shape[1], lists["bound"].shape[1] - 1
    part_k, part_v = q.new_empty(2, batch * num_kv_heads, num_pieces, tiles.tile, head_dim, dtype=torch.float32)
    kernel.backward_keys[(num_pieces, batch * num_kv_heads)](
        q, k, v, lists["query"], lists["start"], lists["tile"], lists["low"], lists["high"], lse, delta, pull,
        part_k, part_v, new, past, lists["query"].shape[1], num_pieces, num_keys, *factors, *strides, **sizes,
        ROWS=tiles.list_rows, **launch,
    )  # fmt: skip
    grad_k, grad_v = k.new_empty(k.shape), v.new_empty(v.shape)
    kernel.sum_pieces[(num_tiles, batch * num_kv_heads)](
        part_k, part_v, lists["bound"], grad_k, grad_v, num_pieces, num_tiles, num_keys,
        HEAD=head_dim, WIDE=tiles.wide, TILE=tiles.tile,
    )  # fmt: skip
    return grad_q, grad_k, grad_v


def pieces_of(starts: Tensor, num_keys: int, select_block: int, tile: int, aligned: bool) -> dict[str, Tensor]:
    """Return which queries reach into which tile of keys, cut into pieces; X: rows × key/value heads.

    Args:
        starts: XTn, first key of each selected block.
        num_keys: S.
        select_block: keys of a block.
        tile: keys of a tile.
        aligned: whether all blocks start at a multiple of `select_block`.

    Returns:
        `query` and `start` of each pair, sorted by tile; `tile`, `low` and `high` of each piece, as many as there can
        be, of which the last may be empty; `bound`: a tile's pieces begin at bound[tile] and end before the next.
    """
    rows, num_queries, num_picks = starts.shape
    num_tiles = -(-num_keys // tile)
    spans = max(1, select_block // tile) if aligned and not (select_block % tile and tile % select_block) else None
    spans = spans or (select_block + tile - 2) // tile + 1
    tile_of = starts[..., None] // tile + torch.arange(spans, device=starts.device)
    query_T11 = torch.arange(num_queries, device=starts.device)[:, None, None] + (num_keys - num_queries)
    last = torch.minimum(starts[..., None] + (select_block - 1), query_T11)
    exists = (starts[..., None] >= 0) & (tile_of * tile <= last)
    sorted_tiles, order = torch.where(exists, tile_of, num_tiles).flatten(1).sort(dim=1, stable=True)
    bounds = torch.arange(num_tiles + 1, device=starts.device).expand(rows, -1).contiguous()
    first_pair = torch.searchsorted(sorted_tiles, bounds.to(sorted_tiles.dtype))
    pieces = (first_pair.diff(dim=1) + (PAIRS_PER_PIECE - 1)) // PAIRS_PER_PIECE
    bound = torch.nn.functional.pad(pieces.cumsum(1), (1, 0))
    number = torch.arange(order.shape[1] // PAIRS_PER_PIECE + num_tiles, device=starts.device).expand(rows, -1)
    number = number.contiguous()
    own_tile = torch.searchsorted(bound[:, 1:].contiguous(), number, right=True)
    exists_piece, own_tile = own_tile < num_tiles, own_tile.clamp(max=num_tiles - 1)
    low = first_pair.gather(1, own_tile) + (number - bound.gather(1, own_tile)) * PAIRS_PER_PIECE
    high = torch.minimum(low + PAIRS_PER_PIECE, first_pair.gather(1, own_tile + 1))
    found = {
        "query": order // (num_picks * spans),
        "start": starts.flatten(1).gather(1, order // spans),
        "tile": own_tile,
        "low": low * exists_piece,
        "high": high * exists_piece,
        "bound": bound,
    }
    return {name: x.int().contiguous() for name, x in found.items()}


def _sizes(q: Tensor, k: Tensor, starts: Tensor, select_block: int) -> tuple[kernel.Tiles, dict[str, Any]]:
    head_dim, num_kv_heads = q.shape[3], k.shape[1]
    group = q.shape[1] // num_kv_heads
    tiles = kernel.tiles_of(group, head_dim, select_block, q.element_size())
    exact = q.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    sizes = {
        "KV_HEADS": num_kv_heads,
        "GROUP": group,
        "HEAD": head_dim,
        "SELECT": select_block,
        "WIDE": tiles.wide,
        "TILE": tiles.tile,
        "PRECISION": "ieee" if exact else "tf32",
    }
    return tiles, sizes


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float, select_block: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


@_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, out: Tensor, lse: Tensor, pull: Tensor,
    scale: float, select_block: int, aligned: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, starts, *ctx.options = inputs
    ctx.save_for_backward(q, k, v, starts, *output)


def _differentiate(ctx: Any, pull: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return (*_backward(*ctx.saved_tensors, pull, *ctx.options), None, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_keep)
