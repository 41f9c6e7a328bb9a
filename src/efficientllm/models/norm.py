"""The norms: RMSNorm, with a form for the processor that does the same in fewer passes, and LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.shape import Shape


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis, times a learned gain (arXiv:1910.07467).

    y = x / sqrt(mean(x²) + eps) * weight
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self._eps = torch.tensor(eps, dtype=torch.float32, device="cpu")  # a number would be made a tensor each time
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised `x`, of the same shape and type."""
        if x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling():
            if torch.is_grad_enabled():
                normed: Tensor = _CpuRMSNorm.apply(x, self.weight, self._eps)  # type: ignore[no-untyped-call]
                return normed
            return x * _inverse_rms(x, self._eps) * self.weight
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the deviation over the last axis, times a learned gain, plus a learned bias.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias    (arXiv:1607.06450)
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised `x`, of the same shape and type."""
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def make_norm(shape: Shape) -> nn.Module:
    """Return the norm that this shape has before a sublayer and before the head."""
    kinds = {"rms": RMSNorm, "layer": LayerNorm}
    return kinds[shape.norm](shape.width, shape.norm_eps)


def norm_bytes(norm: nn.Module, ahead: ForwardPass, *, begins: bool = False) -> float:
    """Return what a norm of the residual stream keeps: what came in (see `norm_inputs`), and statistics.

    Args:
        norm: the norm.
        ahead: the pass.
        begins: whether what comes in needs no gradient.
    """
    gain: Any = norm.weight
    width, gradients = gain.numel(), int(gain.requires_grad) + int(not begins)
    if not gradients:
        return 0.0
    if isinstance(norm, LayerNorm) or ahead.compiled:
        return ahead.residuals(width) + ahead.floats(2 if isinstance(norm, LayerNorm) else 1)
    return ahead.norm_inputs(width, ahead.residual_bytes, gradients=gradients) + ahead.floats(1)


def _inverse_rms(x: Tensor, eps: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()


class _CpuRMSNorm(torch.autograd.Function):
    """The same for training on a processor: torch's own chain of operations takes twice as long there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        """Return the normalised `x`; `eps` is a scalar tensor."""
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of `x` and of the gain."""
        x, weight, inverse = ctx.saved_tensors
        normed = x * inverse
        pull = (grad * normed).flatten(0, -2)
        grad_weight = pull.sum(0)
        mean_pull = torch.mv(pull, weight).view_as(inverse).div_(-x.shape[-1])
        grad_x = torch.addcmul(grad * weight, normed, mean_pull).mul_(inverse)
        return grad_x, grad_weight, None
