"""NSA's selected branch as an operator of torch over the Triton kernels: differentiable, and opaque to compilers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from efficientllm.models.mixers import _nsa_kernel as kernel
from efficientllm.models.mixers._nsa_pieces import pieces_of

#: (query, block) pairs of a piece, the work of one program of `backward_keys`.
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
    lists = pieces_of(starts.flatten(0, 1), num_keys, select_block, tiles.tile, aligned, PAIRS_PER_PIECE)
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
