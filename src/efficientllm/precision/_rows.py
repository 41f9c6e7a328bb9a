"""The dense layer over a matrix in eight bits, one scale a row, whatever the eight bits mean.

O  out_features    I  in_features
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from efficientllm.errors import UserError
from efficientllm.precision._contract import PackedLinear
from efficientllm.precision._packed_product import rows_matrix


@torch.library.custom_op("efficientllm::dequantise_rows", mutates_args=())
def dequantise_rows(codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype, after: Tensor | None) -> Tensor:
    """Return the matrix; an operator of its own, with `after` unread, for the reason that `_dequantise.py` gives."""
    return rows_matrix(codes_OI, scales_O, dtype)


@dequantise_rows.register_fake
def _(codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype, after: Tensor | None) -> Tensor:
    return codes_OI.new_empty(codes_OI.shape, dtype=dtype)


class RowsLinear(PackedLinear):
    """A frozen dense layer: a number is its code times the scale of its row.

    Args:
        codes_OI: int8 or float8 (e4m3).
        scales_O: of each row, float32.
        dtype: type of the matrix when it is read.
        bias: the layer's bias, as it is.
    """

    def __init__(self, codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype, bias: Tensor | None) -> None:
        nn.Module.__init__(self)  # a linear layer's own would allocate the matrix
        self.out_features, self.in_features = codes_OI.shape
        self.dtype, self.kind = dtype, codes_OI.dtype
        # As bits, so that no cast of the model changes them.
        self.register_buffer("codes", codes_OI.view(torch.int8))
        self.register_buffer("scales", scales_O.view(torch.int32))
        self.codes: Tensor
        self.scales: Tensor
        given = bias is None or isinstance(bias, nn.Parameter)
        self.register_parameter("bias", bias if given else nn.Parameter(bias, requires_grad=False))  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix `[out_features, in_features]`, made anew."""
        made: Tensor = dequantise_rows(*self._held(), self.dtype, None)
        return made

    def product(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the layer's result, or some rows of it."""
        device = x.device.type
        autocast = device != "meta" and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else self.dtype
        bias = None if self.bias is None else self.bias[rows].to(dtype)
        codes_OI, scales_O = self._held()
        out: Tensor = _Product.apply(x.to(dtype), bias, codes_OI[rows], scales_O[rows])  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        """Return what a print of the model says of it."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, codes={self.kind}, dtype={self.dtype}"

    def _held(self) -> tuple[Tensor, Tensor]:
        return self.codes.view(self.kind), self.scales.view(torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the buffers; a cast of the model changes the type of the matrix that is read."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.codes.device)).dtype
        return self


class _Product(torch.autograd.Function):
    """x Wᵀ + b: what is kept is packed, and W is made once more for the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, codes_OI: Tensor, scales_O: Tensor) -> Tensor:
        """Return the results."""
        ctx.save_for_backward(codes_OI, scales_O)
        return F.linear(x, dequantise_rows(codes_OI, scales_O, x.dtype, None), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what went in and of the bias."""
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = pull @ dequantise_rows(*ctx.saved_tensors, pull.dtype, pull)
        if ctx.needs_input_grad[1]:
            grad_bias = pull.reshape(-1, pull.shape[-1]).sum(0)
        return grad_x, grad_bias, None, None


def largest_of_rows(weight: Tensor) -> Tensor:
    """Return the largest size of a number in each row, float32, once all numbers are known to be finite.

    Raises:
        UserError: a matrix with numbers that are not finite.
    """
    largest_O: Tensor = torch.linalg.vector_norm(weight, torch.inf, 1, dtype=torch.float32)
    if not weight.is_meta and not largest_O.isfinite().all():
        raise UserError(f"a matrix of {tuple(weight.shape)} has NaN or infinity in it and cannot be packed.")
    return largest_O


def code_rows(weight: Tensor, scales_O: Tensor, code: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the codes of a matrix; so many rows at once that little float32 is held beside it.

    Args:
        weight: OI.
        scales_O: of each row; a row of zeros may have 0.
        code: from numbers in scales, float32, to codes.
    """
    steps_O = torch.where(scales_O == 0, 1.0, scales_O)
    rows = max(1, 2**24 // max(1, weight.shape[1]))
    parts = zip(weight.detach().split(rows), steps_O.split(rows), strict=True)
    return torch.cat([code(part.float() / step[:, None]) for part, step in parts])
