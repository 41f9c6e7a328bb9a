"""Products of matrices in blocks of 4-bit codes whose sixteen values are any: looked up by a kernel for few rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.precision._blocks import Blocks
from efficientllm.precision._dequantise import dequantise
from efficientllm.precision._held_blocks import HeldBlocks
from efficientllm.precision._packed_product import HAS_KERNELS, table_assembly, table_rows
from efficientllm.precision._served import ACTIVATIONS, ServedLinear

#: Rows up to which the kernel is faster than to make the matrix and multiply: it takes 64 at once.
_FEW_ROWS = 64
#: Fewest numbers of a block: half as many are what the matrix units take.
_LEAST = 32


class ServedBlocks(HeldBlocks, ServedLinear):
    """A layer for inference over blocks as they are; in any other type than bfloat16 the matrix is made.

    Args:
        packed: the blocks.
        size: numbers of one.
        shape: rows and columns of the matrix.
        dtype: type of the layer's result, and of `weight`.
        bias: the layer's bias, as it is.
    """

    def __init__(
        self, packed: Blocks, size: int, shape: tuple[int, int], dtype: torch.dtype, bias: Tensor | None
    ) -> None:
        ServedLinear.__init__(self, shape, dtype, bias)
        self.hold(packed, size)
        self.few_rows, self.lookup = _FEW_ROWS, table_assembly(tuple(packed.values.tolist()))

    def product(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the layer's result, or some rows of it, in the layer's type."""
        if self.dtype == ACTIVATIONS:
            return super().product(x, rows)
        bias = None if self.bias is None else self.bias[rows].to(self.dtype)
        return F.linear(x.to(self.dtype), self.matrix(self.dtype)[rows], bias)

    def few(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ by the kernel."""
        out_MO: Tensor = table_rows(x_MI, *self.fields(), self.lookup, self.block_size, self.out_features)
        return out_MO

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix, OI in this type."""
        made: Tensor = dequantise(*self.fields(), *self.form(), dtype, None)
        return made


def servable(held: HeldBlocks) -> bool:
    """Whether the kernel can serve them: there is one, and a row of the matrix is whole blocks."""
    size, _, columns = held.form()
    return HAS_KERNELS and held.packed().codes.is_cuda and size >= _LEAST and columns % size == 0
