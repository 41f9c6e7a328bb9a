"""Adapters that are a matrix of the base's size, on several layers that share one: LoHa and LoKr.

y = W x + D x, with D as the library makes it of its factors. D is not added to W first: in 16 bits a small D would be
lost in it. The library's own forward pass draws a random number a layer to see whether to leave it out, and a compiler
stops there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from efficientllm.models.forward_pass import FLOAT, ForwardPass
from efficientllm.models.linear import Factors
from efficientllm.models.part import compute_dtype
from efficientllm.precision._add_product import add_product


class Deltas:
    """The adapters of one matrix.

    Args:
        parts: of each range of rows, in order: the layer that peft wrapped, or the rows alone.
        adapter: its name.

    Attributes:
        keeps_result: whether the result is kept for the backward pass.
    """

    keeps_result = False

    def __init__(self, parts: Sequence[Any], adapter: str) -> None:
        self._parts, self._adapter = tuple(parts), adapter

    def __call__(self, x: Tensor, base: nn.Linear) -> Tensor:
        """Return base(x) and what the adapters add."""
        dtype, x_MI = compute_dtype(x), x.reshape(-1, x.shape[-1])
        rows = []
        for part in self._parts:
            adapted = hasattr(part, "get_delta_weight")
            delta = part.get_delta_weight(self._adapter) if adapted else x.new_zeros(part.out_features, x.shape[-1])
            rows.append(delta.to(dtype))
        delta_OI = torch.cat(rows) if len(rows) > 1 else rows[0]
        packed = base._parameters.get("weight") is None
        if packed:
            out_MO: Tensor = base(x_MI).to(dtype) + F.linear(x_MI.to(dtype), delta_OI)
        else:
            bias = None if base.bias is None else base.bias.to(dtype)
            out_MO = _Sum.apply(x_MI.to(dtype), base.weight.to(dtype), bias, delta_OI)  # type: ignore[no-untyped-call]
        return out_MO.view(*x.shape[:-1], out_MO.shape[-1])

    def added_bytes(self, base: nn.Linear, ahead: ForwardPass) -> float:
        """Return the matrix that is added."""
        return float(base.in_features * base.out_features * ahead.dtype_bytes)

    def made_bytes(self, base: nn.Linear, ahead: ForwardPass) -> float:
        """Return the gradient of the matrix that is added, in the products' type and in the factors'."""
        return float(base.in_features * base.out_features * (ahead.dtype_bytes + FLOAT))

    def uncounted(self, compiled: bool) -> str:
        """Return what is not told of LoHa; of LoKr nothing is left out but its small factors.

        A compiler keeps LoHa's two products, in float32 and not always both: 5.3 GB at 1.5b on an H200.
        """
        products = compiled and any(hasattr(part, "hada_w1_a") for part in self._parts)
        return "what a compiler keeps of LoHa's two products" if products else ""

    def factors(self, base: nn.Linear) -> Factors | None:
        """Return that there are none of low rank."""
        return None


class _Sum(torch.autograd.Function):
    """x Wᵀ + b + x Dᵀ with a frozen W."""

    @staticmethod
    def forward(ctx: Any, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, delta_OI: Tensor) -> Tensor:
        """Return the rows' sums."""
        ctx.save_for_backward(x_MI, weight_OI, delta_OI)
        out_MO = F.linear(x_MI, weight_OI, bias_O)
        add_product(out_MO, x_MI, delta_OI.t())
        return out_MO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull_MO: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all but W."""
        x_MI, weight_OI, delta_OI = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = pull_MO @ weight_OI
            add_product(grad_x, pull_MO, delta_OI)
        grad_bias = pull_MO.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias, pull_MO.t() @ x_MI
