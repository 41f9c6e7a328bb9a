"""LoRA on several layers that share a matrix, in three products: the base's, one with all A, one with all B.

y = W x + s B A x. The As lie one under another, so that x is read once; the Bs on a block diagonal, so that one product
adds to all rows, onto the base's result. Parameters are peft's own, and results and gradients those of its layers, to
rounding. With dropout each part drops from x by a mask of its own, and only then has a product with its A of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Factors
from efficientllm.models.part import compute_dtype
from efficientllm.precision._contract import PackedLinear
from efficientllm.precision._low_rank_product import Room, low_rank_pull, low_rank_sum, make_room


class LowRank:
    """The adapters of one matrix.

    Args:
        down: the As, `[rank, in_features]` each.
        up: the Bs, `[rows, rank]` each.
        scales: the factor of each.
        starts: first row of each in the matrix.
        dropouts: what acts on x before each A; empty where nothing does.

    Attributes:
        keeps_result: whether the result is kept for the backward pass.
    """

    keeps_result = False

    def __init__(
        self,
        down: Sequence[nn.Linear],
        up: Sequence[nn.Linear],
        scales: Sequence[float],
        starts: Sequence[int],
        dropouts: Sequence[nn.Module] = (),
    ) -> None:
        self._down, self._up, self._dropouts = tuple(down), tuple(up), tuple(dropouts)
        self._scales, self._starts = tuple(scales), tuple(starts)
        self._room: Room | None = None

    def __call__(self, x: Tensor, base: nn.Linear) -> Tensor:
        """Return base(x) and what the adapters add."""
        out = self.total(x.reshape(-1, x.shape[-1]), base)
        return self.finish(out, base).view(*x.shape[:-1], out.shape[-1])

    def total(self, x_MI: Tensor, base: nn.Linear) -> Tensor:
        """Return base(x) and the adapters' products, in rows: on a view of them the sum in place would cost a copy."""
        dtype = compute_dtype(x_MI)
        up = self.up(base.out_features).to(dtype)
        if self._drops():
            out: Tensor = base(x_MI).to(dtype)
            return out.addmm_(self._inner(x_MI.to(dtype)), up.t())
        if isinstance(base, PackedLinear):
            return base.corrected(x_MI.to(dtype), self.down().to(dtype), up)
        bias = None if base.bias is None else base.bias.to(dtype)
        spare = self._spare(base) if base.weight.dtype == dtype else ""
        given = x_MI.to(dtype), base.weight.to(dtype), bias, self.down().to(dtype), up, spare
        total: Tensor = _Sum.apply(*given)  # type: ignore[no-untyped-call]
        return total

    def finish(self, out: Tensor, base: nn.Linear) -> Tensor:
        """Return what the layer gives, from the sum."""
        return out

    def factors(self, base: nn.Linear) -> Factors | None:
        """Return base and adapters as factors, None where there is more to them."""
        if self._drops() or not self._plain(base):
            return None
        up, spare = self.up(base.out_features), self._spare(base)
        return Factors(base.weight, self.down(), up, lambda out: self.finish(out, base), spare)

    def has_factors(self, base: nn.Linear) -> bool:
        """Whether `factors` gives some in training."""
        return not self._dropouts and self._plain(base)

    def added_bytes(self, base: nn.Linear, ahead: ForwardPass) -> float:
        """Return A x of all parts, and the two matrices that all As and all Bs are put into, in the products' type."""
        rank = self._rank
        return ahead.numbers(rank) + rank * (base.in_features + base.out_features) * ahead.dtype_bytes

    def made_bytes(self, base: nn.Linear, ahead: ForwardPass) -> float:
        """Return that the backward pass needs nothing of the size of its inputs."""
        return 0.0

    def uncounted(self, compiled: bool) -> str:
        """Return what the bytes above leave out."""
        return "what is dropped, and by which masks" if self._dropouts else ""

    def make_room(self, base: nn.Linear) -> None:
        """Move the base to where a factor has room beside it, if the products gain by that (`low_rank_sum`)."""
        if not self._dropouts and not isinstance(base, PackedLinear) and self._room is None:
            self._room = make_room(base.weight, self._rank)

    def room_bytes(self, base: nn.Linear) -> float:
        """Return what the room takes."""
        return float(self._room.bytes_beside(base.weight)) if self._room is not None and self._spare(base) else 0.0

    def down(self) -> Tensor:
        """Return the As, `[sum of ranks, in_features]`."""
        return torch.cat([layer.weight for layer in self._down])

    def up(self, rows: int) -> Tensor:
        """Return the scaled Bs on a block diagonal, `[rows, sum of ranks]`."""
        columns = []
        for layer, scale, start in zip(self._up, self._scales, self._starts, strict=True):
            below = rows - start - layer.weight.shape[0]
            columns.append(F.pad(layer.weight * scale, (0, 0, start, below)))
        return torch.cat(columns, 1)

    @property
    def _rank(self) -> int:
        """The sum of the parts' ranks."""
        return sum(layer.out_features for layer in self._down)

    def _spare(self, base: nn.Linear) -> str:
        """Return which room the base has, empty if none."""
        return "" if self._room is None or isinstance(base, PackedLinear) else self._room.spare(base.weight)

    def _inner(self, x_MI: Tensor) -> Tensor:
        """Return A x of all parts, `[tokens, sum of ranks]`."""
        if not self._drops():
            return F.linear(x_MI, self.down().to(x_MI.dtype))
        pairs = zip(self._down, self._dropouts, strict=True)
        return torch.cat([F.linear(drop(x_MI), layer.weight.to(x_MI.dtype)) for layer, drop in pairs], 1)

    def _plain(self, base: nn.Linear) -> bool:
        """Whether the base is a matrix alone; a packed one would be kept whole."""
        return base._parameters.get("weight") is not None and base._parameters.get("bias") is None

    def _drops(self) -> bool:
        return any(drop.training for drop in self._dropouts)


class _Sum(torch.autograd.Function):
    """x Wᵀ + b + (x Aᵀ) Bᵀ with a frozen W: what is summed is written once and added to by the products themselves."""

    @staticmethod
    def forward(
        ctx: Any, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, spare: str
    ) -> Tensor:
        """Return the rows' sums."""
        out_MO, inner_MR = low_rank_sum(x_MI, weight_OI, bias_O, down_RI, up_OR, spare)
        ctx.save_for_backward(x_MI, weight_OI, down_RI, up_OR, inner_MR)
        ctx.spare = spare
        return out_MO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull_MO: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all but W."""
        x_MI, weight_OI, down_RI, up_OR, inner_MR = ctx.saved_tensors
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x, pull_MR = low_rank_pull(pull_MO, weight_OI, down_RI, up_OR, ctx.spare)
        else:
            pull_MR = pull_MO @ up_OR
        if ctx.needs_input_grad[2]:
            grad_bias = pull_MO.sum(0)
        return grad_x, None, grad_bias, pull_MR.t() @ x_MI, pull_MO.t() @ inner_MR, None
