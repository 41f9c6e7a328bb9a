"""DoRA on several layers that share a matrix: LoRA's three products, then a factor for each row.

y = c (W x + s B A x), c = m / |W + s B A| by rows, where gradients take the norm as a constant, as peft's do. The norm
needs no matrix of the weights' size: |W_i|² + 2 s B_i · (W Aᵀ)_i + s² B_i (A Aᵀ) B_iᵀ. Of the product the result is
kept alone, which who reads it keeps as well: the gradient of m is the sum of dy · y over the tokens, divided by m.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from efficientllm.adapters._low_rank import LowRank


class Dora(LowRank):
    """The adapters of one matrix, with magnitudes.

    Args:
        down: the As.
        up: the Bs.
        scales: the factor of each.
        starts: first row of each in the matrix.
        magnitudes: layers whose `weight` holds a number for each row of a part.
    """

    keeps_result = True

    def __init__(
        self,
        down: Sequence[nn.Linear],
        up: Sequence[nn.Linear],
        scales: Sequence[float],
        starts: Sequence[int],
        magnitudes: Sequence[nn.Module],
    ) -> None:
        super().__init__(down, up, scales, starts)
        self._magnitudes = tuple(magnitudes)

    def finish(self, out: Tensor, base: nn.Linear) -> Tensor:
        """Return the sum with each row's factor; a bias stays outside of it."""
        norm = self._norm(base)
        pieces, row = [], 0
        for layer, start in zip(self._magnitudes, self._starts, strict=True):
            weight: Tensor = layer.weight  # type: ignore[assignment]
            pieces += [norm.new_ones(start - row), weight.float() / norm[start : start + len(weight)]]
            row = start + len(weight)
        pieces.append(norm.new_ones(base.out_features - row))
        scaled: Tensor = _Scaled.apply(out, torch.cat(pieces), base.bias)  # type: ignore[no-untyped-call]
        return scaled

    @torch.no_grad()
    def _norm(self, base: nn.Linear) -> Tensor:
        """Return |W + s B A| of each row, float32."""
        weight, down, up = base.weight, self.down(), self.up(base.out_features)
        with torch.autocast(weight.device.type, enabled=False):
            squares = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square()
            crossed = F.linear(weight, down.to(weight.dtype)).float()
            squares += (up * (2.0 * crossed + up @ (down @ down.t()))).sum(1)
        norm: Tensor = squares.sqrt()
        return norm


class _Scaled(torch.autograd.Function):
    """factor * (total - bias) + bias."""

    @staticmethod
    def forward(ctx: Any, total_MO: Tensor, factor_O: Tensor, bias_O: Tensor | None) -> Tensor:
        """Return the rows' results, in their own type; the factor is float32."""
        out_MO = _times(total_MO, factor_O)
        if bias_O is not None:
            out_MO = out_MO + (bias_O * (1.0 - factor_O)).to(out_MO.dtype)
        ctx.save_for_backward(out_MO, factor_O, bias_O)
        return out_MO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull_MO: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of the sum and of the factor."""
        out_MO, factor_O, bias_O = ctx.saved_tensors
        pulled_O = (pull_MO * out_MO).sum(0, dtype=torch.float32)
        if bias_O is not None:
            pulled_O = pulled_O - bias_O * pull_MO.sum(0, dtype=torch.float32)
        grad_O = torch.where(factor_O == 0, 0.0, pulled_O / factor_O)
        return _times(pull_MO, factor_O), grad_O, None


def _times(x_MO: Tensor, factor_O: Tensor) -> Tensor:
    """Return the product in x's type; the factor is float32.

    Eager, a plain product would first be written in float32. Compiled, that is fused anyway, and torch 2.11 loses a
    result that is written into `out=` in a backward pass: the gradient is then whatever lay there. It loses as well
    what is kept after a `to` that changes nothing: all gradients are then zero.
    """
    if torch.compiler.is_compiling():
        product_MO = x_MO * factor_O
        return product_MO if product_MO.dtype == x_MO.dtype else product_MO.to(x_MO.dtype)
    return torch.mul(x_MO, factor_O, out=torch.empty_like(x_MO))
