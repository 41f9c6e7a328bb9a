"""down(silu(gate) * up) as one differentiable step, of which only gate and up are kept, for training on CUDA.

The kernels are those of `_gated_kernel.py`; the product with `down` is inside so that its gradient takes the value that
the backward kernel gives anyway, and the value need not be kept. So for a matrix, and for a frozen one with a
correction of low rank; any other layer takes `gated`, and keeps what it needs itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from efficientllm.models.linear import Factors
from efficientllm.models.part import compute_dtype
from efficientllm.precision._low_rank_product import low_rank_pull, low_rank_sum

#: Gate and up of all rows, the matrix, ends of the experts' rows or None.
_Kept = tuple[Tensor, Tensor, Tensor | None]


def serves(x: Tensor) -> bool:
    """Whether the kernels are here and a backward pass may follow on their device."""
    return _KERNELS is not None and x.device.type == "cuda" and torch.is_grad_enabled()


def gated_down(gate_up: Tensor, weight: Tensor, ends_E: Tensor | None = None) -> Tensor:
    """Return down(silu(gate) * up).

    Args:
        gate_up: rows of F gates and F ups, any leading axes; with experts PG, sorted by expert.
        weight: DF, or of experts EDF.
        ends_E: where each expert's rows end, int32.
    """
    rows = gate_up.flatten(0, -2)
    out: Tensor = _GatedDown.apply(rows, weight.to(compute_dtype(weight)), ends_E)  # type: ignore[no-untyped-call]
    return out.view(*gate_up.shape[:-1], out.shape[-1])


def gated_factors(gate_up: Tensor, layer: Factors) -> Tensor:
    """Return down(silu(gate) * up) of a frozen `down` with a correction of low rank, with gradients of all but it."""
    rows, dtype = gate_up.flatten(0, -2), compute_dtype(layer.weight)
    spare = layer.spare if layer.weight.dtype == dtype else ""
    given = (rows, layer.weight.to(dtype), layer.down.to(dtype), layer.up.to(dtype), spare)
    out: Tensor = _GatedFactors.apply(*given)  # type: ignore[no-untyped-call]
    return layer.finish(out).view(*gate_up.shape[:-1], out.shape[-1])


def gated(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up; rows of F gates and F ups, any leading axes."""
    value: Tensor = _Gated.apply(gate_up.flatten(0, -2))  # type: ignore[no-untyped-call]
    return value.view(*gate_up.shape[:-1], value.shape[-1])


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up_MG: Tensor) -> Tensor:
        """Return the rows' values."""
        ctx.save_for_backward(gate_up_MG)
        value_MF: Tensor = torch.ops.efficientllm.silu_gate(gate_up_MG)
        return value_MF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull_MF: Tensor) -> Tensor:
        """Return the gradients of gate and up."""
        (gate_up_MG,) = ctx.saved_tensors
        grad_MG: Tensor = torch.ops.efficientllm.silu_gate_backward(gate_up_MG, pull_MF)[0]
        return grad_MG


class _GatedFactors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up_MG: Tensor, weight_DF: Tensor, down_RF: Tensor, up_DR: Tensor, spare: str) -> Tensor:
        """Return the rows' results."""
        value_MF = torch.ops.efficientllm.silu_gate(gate_up_MG)
        out_MD, inner_MR = low_rank_sum(value_MF, weight_DF, None, down_RF, up_DR, spare)
        ctx.save_for_backward(gate_up_MG, weight_DF, down_RF, up_DR, inner_MR)
        ctx.spare = spare
        return out_MD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull_MD: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        """Return the gradients of gate and up, and of the correction."""
        gate_up_MG, weight_DF, down_RF, up_DR, inner_MR = ctx.saved_tensors
        pull_MF, pull_MR = low_rank_pull(pull_MD, weight_DF, down_RF, up_DR, ctx.spare)
        grad_MG, value_MF = torch.ops.efficientllm.silu_gate_backward(gate_up_MG, pull_MF)
        return grad_MG, None, pull_MR.t() @ value_MF, pull_MD.t() @ inner_MR, None


class _GatedDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up_MG: Tensor, weight: Tensor, ends_E: Tensor | None) -> Tensor:
        """Return the rows' results."""
        ctx.save_for_backward(gate_up_MG, weight, ends_E)
        value_MF = torch.ops.efficientllm.silu_gate(gate_up_MG)
        if ends_E is None:
            return F.linear(value_MF, weight)
        return F.grouped_mm(value_MF, weight.transpose(1, 2), offs=ends_E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull_MD: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Return the gradients of gate and up, and of the matrix unless it is frozen."""
        kept: _Kept = ctx.saved_tensors
        gate_up_MG, weight, ends_E = kept
        pull_MF = pull_MD @ weight if ends_E is None else F.grouped_mm(pull_MD, weight, offs=ends_E)
        grad_MG, value_MF = torch.ops.efficientllm.silu_gate_backward(gate_up_MG, pull_MF)
        if not ctx.needs_input_grad[1]:
            return grad_MG, None, None
        if ends_E is None:
            return grad_MG, pull_MD.t() @ value_MF, None
        return grad_MG, F.grouped_mm(pull_MD.t(), value_MF, offs=ends_E), None


def _load() -> Any:
    """Return the kernels' module, or None where torch knows no CUDA or Triton is missing."""
    if torch.version.cuda is None:
        return None
    try:
        from efficientllm.models.mlp import _gated_kernel
    except ImportError:
        return None
    return _gated_kernel


_KERNELS = _load()
