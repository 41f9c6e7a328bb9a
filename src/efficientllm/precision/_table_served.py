"""Products of matrices in blocks of 4-bit codes whose sixteen values are any: looked up by a kernel for few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.precision._dequantise import dequantise
from efficientllm.precision._packed_product import HAS_KERNELS, table_assembly, table_rows
from efficientllm.precision._served import ACTIVATIONS, ServedLinear

if TYPE_CHECKING:
    from efficientllm.precision._layer import BlockLinear

#: Rows up to which the kernel is faster than to make the matrix and multiply: it takes 64 at once.
_FEW_ROWS = 64
#: Fewest numbers of a block: half as many are what the matrix units take.
_LEAST = 32


class ServedBlocks(ServedLinear):
    """A layer for inference over blocks as they are; in any other type than bfloat16 the matrix is made.

    Args:
        held: the packed layer.
        bias: the layer's bias, as it is.
    """

    def __init__(self, held: BlockLinear, bias: Tensor | None) -> None:
        super().__init__((held.out_features, held.in_features), held.dtype, bias)
        held.register_parameter("bias", None)
        self.held, self.few_rows = held, _FEW_ROWS
        self.lookup = table_assembly(tuple(held.packed().values.tolist()))

    def product(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the layer's result, or some rows of it, in the layer's type."""
        if self.dtype == ACTIVATIONS:
            return super().product(x, rows)
        bias = None if self.bias is None else self.bias[rows].to(self.dtype)
        return F.linear(x.to(self.dtype), self.matrix(self.dtype)[rows], bias)

    def few(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ by the kernel."""
        size, num_outputs, _ = self.held.form()
        out_MO: Tensor = table_rows(x_MI, *self.held.packed(), self.lookup, size, num_outputs)
        return out_MO

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix, OI in this type."""
        made: Tensor = dequantise(*self.held.packed(), *self.held.form(), dtype, None)
        return made


def can_serve(held: BlockLinear) -> bool:
    """Whether the kernel can: there is one, and a row of the matrix is whole blocks."""
    size, _, columns = held.form()
    return HAS_KERNELS and held.packed().codes.is_cuda and size >= _LEAST and columns % size == 0
