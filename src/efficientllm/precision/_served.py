"""The dense layer for inference alone: products of a packed matrix by whatever is fastest for so many rows.

M  rows, tokens of all sequences    I  in_features    O  out_features
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.precision._contract import PackedLinear

#: The type of activations in products of packed matrices: torch's own kernels are made for it. (On a processor those
#: that take float32 are several times slower than the dense product.)
ACTIVATIONS = torch.bfloat16


class ServedLinear(PackedLinear):
    """A dense layer for inference, whose matrix is held in the device's own layout.

    A subclass says what its matrix is (`matrix`), how few rows are multiplied by a kernel that reads it packed (`few`),
    and up to how many rows that is faster than to make the matrix first (`few_rows`).

    Args:
        shape: rows and columns of the matrix.
        dtype: type of the layer's result, and of `weight`.
        bias: the layer's bias, as it is.
    """

    few_rows = 0

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, bias: Tensor | None) -> None:
        nn.Module.__init__(self)  # a linear layer's own would allocate the matrix
        self.out_features, self.in_features = shape
        self.dtype = dtype
        self.register_parameter("bias", bias)  # type: ignore[arg-type]

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix, OI in this type; exact in float32."""
        raise NotImplementedError

    def few(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ in bfloat16, of few rows in bfloat16 that lie one after another."""
        raise NotImplementedError

    def many(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ of many rows."""
        return F.linear(x_MI, self.matrix(x_MI.dtype))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix `[out_features, in_features]`, made anew."""
        return self.matrix(self.dtype)

    def product(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the layer's result, or some rows of it, in the layer's type."""
        x_MI = x.reshape(-1, self.in_features).to(ACTIVATIONS).contiguous()
        out_MO = self.few(x_MI) if len(x_MI) <= self.few_rows else self.many(x_MI)
        out_MO = out_MO[:, rows].to(self.dtype)
        if self.bias is not None:
            out_MO = out_MO + self.bias[rows].to(self.dtype)
        return out_MO.view(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        """Return what a print of the model says of it."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, dtype={self.dtype}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the buffers; a cast of the model changes the type of results, never what is held."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self
