"""x Wᵀ + (x Aᵀ) Bᵀ with a frozen W and what its backward pass takes: of a matrix much longer one way, in one product.

The product with the smaller factor reads, and that with the larger one reads and writes, what is as large as W's own
larger side; they are bound by that, not by arithmetic. Where W lies in a buffer with room beside it, the factor is put
there and W's own product does its work:

    spare columns  W much higher than wide   [x, x Aᵀ] [W B]ᵀ                dy [W B]        = [dy W, dy B]
    spare rows     W much wider than high    x [W; A]ᵀ = [x Wᵀ, x Aᵀ]        [dy, dy B] [W; A]

The room holds nothing between two calls: each writes what it reads, in the order of its device's queue. Layers that
share a matrix, recomputation and a step in between so change nothing. It is not told to a compiler, which would copy
the whole buffer, nor to autograd, which would refuse a matrix that changed after it was kept; the matrix does not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.precision._add_product import add_product

#: How many times longer one side must be: else what the small factors read is not worth a copy of the shorter side.
_LONGER = 2
#: Numbers by which rows are set apart that have room below: by this stride they are known. Keeps rows aligned.
_APART = 64
#: What ranks and sides must be multiples of: rows that do not begin at 16 bytes take slower products.
_ALIGNED = 8


class Room(NamedTuple):
    """Room beside a matrix of one buffer: below its rows, and between the end of one and the begin of the next."""

    rows: int
    columns: int

    def bytes_beside(self, weight_OI: Tensor) -> int:
        """Return the bytes that the room takes."""
        rows, width = weight_OI.shape
        return ((rows + self.rows) * (width + self.columns) - rows * width) * weight_OI.element_size()

    def spare(self, weight_OI: Tensor) -> str:
        """Return which room a matrix has: `rows`, `columns`, or none if it was moved or replaced since."""
        if weight_OI.stride() != (weight_OI.shape[1] + self.columns, 1):
            return ""
        return "rows" if self.rows else "columns"


@torch.no_grad()
def make_room(weight: Tensor, rank: int) -> Room | None:
    """Move a matrix to a buffer with room for factors of this rank; return the room, None where it would not pay.

    The parameter stays the same, so that others who hold it see it. A copy or a move of it elsewhere has no room.
    """
    rows, width = weight.shape
    whole = weight.is_contiguous() and weight.untyped_storage().nbytes() == weight.nbytes
    if not whole or any(size % _ALIGNED for size in (rank, rows, width)):
        return None
    if rows >= _LONGER * width:
        room = Room(0, rank)
    elif width >= _LONGER * rows:
        room = Room(rank, _APART)
    else:
        return None
    buffer = weight.new_zeros(rows + room.rows, width + room.columns)
    buffer[:rows, :width].copy_(weight)
    weight.data = buffer[:rows, :width]
    _give_back(weight)
    return room


@torch.no_grad()
def end_room(weight: Tensor) -> None:
    """Move a matrix to a buffer of its own."""
    if not weight.is_contiguous():
        weight.data = weight.data.contiguous()
        _give_back(weight)


def low_rank_sum(
    x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, spare: str
) -> tuple[Tensor, Tensor]:
    """Return x Wᵀ + b + (x Aᵀ) Bᵀ and x Aᵀ; for use inside of an operator's forward pass, it has no gradient.

    Args:
        x_MI: rows.
        weight_OI: W.
        bias_O: b.
        down_RI: A.
        up_OR: B.
        spare: which room W has; empty: none.
    """
    if spare:
        found: tuple[Tensor, Tensor] = _sum(x_MI, weight_OI, bias_O, down_RI, up_OR, spare == "rows")
        return found
    inner_MR = F.linear(x_MI, down_RI)
    out_MO = F.linear(x_MI, weight_OI, bias_O)
    add_product(out_MO, inner_MR, up_OR.t())
    return out_MO, inner_MR


def low_rank_pull(
    pull_MO: Tensor, weight_OI: Tensor, down_RI: Tensor, up_OR: Tensor, spare: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of x Aᵀ from that of the sum, for use inside of an operator's backward pass."""
    if spare:
        found: tuple[Tensor, Tensor] = _pull(pull_MO, weight_OI, down_RI, up_OR, spare == "rows")
        return found
    pull_MR = pull_MO @ up_OR
    grad_MI = pull_MO @ weight_OI
    add_product(grad_MI, pull_MR, down_RI)
    return grad_MI, pull_MR


@torch.library.custom_op("efficientllm::low_rank_sum", mutates_args=())
def _sum(
    x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, below: bool
) -> tuple[Tensor, Tensor]:
    whole, rows = _filled(weight_OI, down_RI, up_OR, below), weight_OI.shape[0]
    if not below:
        inner_MR = F.linear(x_MI, down_RI)
        return F.linear(torch.cat([x_MI, inner_MR], 1), whole, bias_O), inner_MR
    both = F.linear(x_MI, whole)
    out_MO, inner_MR = both[:, :rows], both[:, rows:].contiguous()
    if bias_O is not None:
        out_MO += bias_O
    return out_MO.addmm_(inner_MR, up_OR.t()), inner_MR


@_sum.register_fake
def _(
    x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, below: bool
) -> tuple[Tensor, Tensor]:
    rows, rank = up_OR.shape
    both = x_MI.new_empty(x_MI.shape[0], rows + rank if below else rows)
    return both[:, :rows], x_MI.new_empty(x_MI.shape[0], rank)


@torch.library.custom_op("efficientllm::low_rank_pull", mutates_args=())
def _pull(pull_MO: Tensor, weight_OI: Tensor, down_RI: Tensor, up_OR: Tensor, below: bool) -> tuple[Tensor, Tensor]:
    whole, width = _filled(weight_OI, down_RI, up_OR, below), weight_OI.shape[1]
    if below:
        pull_MR = pull_MO @ up_OR
        return torch.cat([pull_MO, pull_MR], 1) @ whole, pull_MR
    both = pull_MO @ whole
    grad_MI, pull_MR = both[:, :width], both[:, width:].contiguous()
    return grad_MI.addmm_(pull_MR, down_RI), pull_MR


@_pull.register_fake
def _(pull_MO: Tensor, weight_OI: Tensor, down_RI: Tensor, up_OR: Tensor, below: bool) -> tuple[Tensor, Tensor]:
    rank, width = down_RI.shape
    both = pull_MO.new_empty(pull_MO.shape[0], width if below else width + rank)
    return both[:, :width], pull_MO.new_empty(pull_MO.shape[0], rank)


def _filled(weight_OI: Tensor, down_RI: Tensor, up_OR: Tensor, below: bool) -> Tensor:
    """Return the matrix with the factor beside it."""
    (rows, width), rank = weight_OI.shape, down_RI.shape[0]
    data = weight_OI.detach().data  # counts its changes apart from the matrix that autograd keeps
    size = (rows + rank, width) if below else (rows, width + rank)
    whole = data.as_strided(size, data.stride())
    if below:
        whole[rows:] = down_RI
    else:
        whole[:, width:] = up_OR
    return whole


def _give_back(weight: Tensor) -> None:
    """Let the device have the memory that the matrix was in: the next is of another size, and would not go there."""
    if weight.is_cuda:
        torch.cuda.empty_cache()
