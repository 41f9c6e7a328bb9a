"""The dense layer over a matrix in blocks, whatever the format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from efficientllm.errors import UserError
from efficientllm.precision._add_product import add_product
from efficientllm.precision._blocks import SCALE_GROUP, SIZES, Blocks
from efficientllm.precision._contract import PackedLinear
from efficientllm.precision._dequantise import dequantise
from efficientllm.precision._held_blocks import HeldBlocks
from efficientllm.precision._int4_served import served_int4
from efficientllm.precision._table_served import ServedBlocks, servable

#: Numbers that are coded at once, whole groups of blocks: coding takes several float32 copies of them.
_CODED_AT_ONCE = SCALE_GROUP * max(SIZES) * 16


class BlockLinear(HeldBlocks, PackedLinear):
    """A frozen dense layer whose matrix lies in blocks.

    Args:
        packed: the blocks.
        size: numbers of one.
        shape: rows and columns of the matrix.
        dtype: type of the matrix when it is read.
        bias: the layer's bias, as it is.
    """

    def __init__(
        self, packed: Blocks, size: int, shape: tuple[int, int], dtype: torch.dtype, bias: Tensor | None
    ) -> None:
        nn.Module.__init__(self)  # a linear layer's own would allocate the matrix
        self.out_features, self.in_features = shape
        self.dtype = dtype
        self.hold(packed, size)
        given = bias is None or isinstance(bias, nn.Parameter)
        self.register_parameter("bias", bias if given else nn.Parameter(bias, requires_grad=False))  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix `[out_features, in_features]`, made anew."""
        made: Tensor = dequantise(*self.fields(), *self.form(), self.dtype, None)
        return made

    def product(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the layer's result, or some rows of it."""
        device = x.device.type
        autocast = device != "meta" and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else self.dtype
        # not `rows.indices`: torch 2.11 compiles nothing around it
        start, stop = rows.start or 0, self.out_features if rows.stop is None else rows.stop
        bias = None if self.bias is None else self.bias[start:stop].to(dtype)
        given = x.to(dtype), bias, start, stop, self.form(), *self.fields()
        out: Tensor = _Product.apply(*given)  # type: ignore[no-untyped-call]
        return out

    def corrected(self, x_MI: Tensor, down_RI: Tensor, up_OR: Tensor) -> Tensor:
        """Return the layer's result and up (down x), summed by the products themselves."""
        bias = None if self.bias is None else self.bias.to(x_MI.dtype)
        given = x_MI, bias, down_RI, up_OR, self.form(), *self.fields()
        out: Tensor = _Corrected.apply(*given)  # type: ignore[no-untyped-call]
        return out

    def served(self) -> PackedLinear:
        """Return the layer for inference: whole numbers with a zero by int4's products, others by a table's."""
        packed, shape = self.packed(), (self.out_features, self.in_features)
        if packed.lows is None or packed.values.tolist() != list(range(-8, 8)):
            return ServedBlocks(packed, self.block_size, shape, self.dtype, self.bias) if servable(self) else self
        return served_int4(packed, self.block_size, shape, self.dtype, self.bias)

    def extra_repr(self) -> str:
        """Return what a print of the model says of it."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, block_size={self.block_size}, dtype={self.dtype}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the buffers; a cast of the model (`.to(torch.bfloat16)`) changes the type of the matrix that is read."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        codes: Tensor = self.codes  # type: ignore[assignment]
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=codes.device)).dtype
        return self


class _Product(torch.autograd.Function):
    """x Wᵀ + b: what is kept is packed, and W is made once more for the gradient of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, start: int, stop: int, form: tuple[int, int, int], *blocks: Tensor
    ) -> Tensor:
        """Return the rows' results."""
        ctx.save_for_backward(*blocks)
        ctx.rows, ctx.form = (start, stop), form
        return F.linear(x, dequantise(*blocks, *form, x.dtype, None)[start:stop], bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what went in and of the bias."""
        blocks, (start, stop) = ctx.saved_tensors, ctx.rows
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = pull @ dequantise(*blocks, *ctx.form, pull.dtype, pull)[start:stop]
        if ctx.needs_input_grad[1]:
            grad_bias = pull.reshape(-1, pull.shape[-1]).sum(0)
        return grad_x, grad_bias, None, None, None, *(None for _ in blocks)


class _Corrected(torch.autograd.Function):
    """x Wᵀ + b + (x Aᵀ) Bᵀ, where W is made twice as in `_Product`."""

    @staticmethod
    def forward(
        ctx: Any, x_MI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, form: Any, *blocks: Tensor
    ) -> Tensor:
        """Return the rows' sums."""
        inner_MR = F.linear(x_MI, down_RI)
        ctx.save_for_backward(x_MI, down_RI, up_OR, inner_MR, *blocks)
        ctx.form = form
        out_MO = F.linear(x_MI, dequantise(*blocks, *form, x_MI.dtype, None), bias_O)
        add_product(out_MO, inner_MR, up_OR.t())
        return out_MO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull_MO: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what went in, of the bias and of the correction."""
        x_MI, down_RI, up_OR, inner_MR, *blocks = ctx.saved_tensors
        pull_MR = pull_MO @ up_OR
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = pull_MO @ dequantise(*blocks, *ctx.form, pull_MO.dtype, pull_MO)
            add_product(grad_x, pull_MR, down_RI)
        grad_bias = pull_MO.sum(0) if ctx.needs_input_grad[1] else None
        return grad_x, grad_bias, pull_MR.t() @ x_MI, pull_MO.t() @ inner_MR, None, *(None for _ in blocks)


def pack_blocks(
    weight: Tensor, bias: Tensor | None, size: int, code: Callable[[Tensor], Blocks], option: str
) -> BlockLinear:
    """Return the layer of a matrix.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.
        size: numbers of a block.
        code: makes the blocks of consecutive numbers; `values` must be the same each time.
        option: what the format calls the size.

    Raises:
        UserError: a size that no block can have, or a matrix with numbers that are not finite.
    """
    if size not in SIZES:
        raise UserError(f"{option} {size}: choose from {', '.join(map(str, SIZES))}.")
    flat, pieces = weight.detach().reshape(-1), []
    at_once = len(flat) if flat.is_meta else _CODED_AT_ONCE
    for start in range(0, len(flat), at_once):
        numbers = flat[start : start + at_once]
        if not numbers.is_meta and not numbers.isfinite().all():
            raise UserError(f"a matrix of {tuple(weight.shape)} has NaN or infinity in it and cannot be packed.")
        pieces.append(code(numbers))
    fields = {name: [getattr(piece, name) for piece in pieces] for name in Blocks._fields if name != "values"}
    joined = {name: torch.cat(parts) for name, parts in fields.items() if parts[0] is not None}
    packed = Blocks(values=pieces[0].values, **joined)
    return BlockLinear(packed, size, (weight.shape[0], weight.shape[1]), weight.dtype, bias)
