"""LoRA on several layers that share a matrix, in three products: the base's, one with all A, one with all B.

y = W x + s B A x. The As lie one under another, so that x is read once; the Bs on a block diagonal, so that one product
adds to all rows. Parameters are peft's own, and results and gradients those of its layers, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.models.part import compute_dtype


class LowRank:
    """The adapters of one matrix.

    Args:
        down: the As, `[rank, in_features]` each.
        up: the Bs, `[rows, rank]` each.
        scales: the factor of each.
        starts: first row of each in the matrix.
    """

    def __init__(
        self, down: Sequence[nn.Linear], up: Sequence[nn.Linear], scales: Sequence[float], starts: Sequence[int]
    ) -> None:
        self._down, self._up = tuple(down), tuple(up)
        self._scales, self._starts = tuple(scales), tuple(starts)

    def __call__(self, x: Tensor, base: nn.Linear) -> Tensor:
        """Return base(x) and what the adapters add."""
        dtype = compute_dtype(x)
        inner = F.linear(x.to(dtype), torch.cat([layer.weight for layer in self._down]).to(dtype))
        out: Tensor = base(x) + F.linear(inner, self._block_diagonal(base.out_features).to(dtype))
        return out

    def _block_diagonal(self, rows: int) -> Tensor:
        """Return the scaled Bs, `[rows, sum of ranks]`."""
        columns = []
        for layer, scale, start in zip(self._up, self._scales, self._starts, strict=True):
            below = rows - start - layer.weight.shape[0]
            columns.append(F.pad(layer.weight * scale, (0, 0, start, below)))
        return torch.cat(columns, 1)
