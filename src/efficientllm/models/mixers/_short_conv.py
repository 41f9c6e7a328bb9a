"""A causal convolution over a few tokens, each channel for itself, then SiLU."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.mixers._kernels import Kernel
from efficientllm.models.mixers._runs import Runs, in_one_row

_KERNEL = Kernel("fla.modules.causal_conv1d", "causal_conv1d")


class ShortConv(nn.Module):
    """y_t = silu(bias + Σ_j weight_j x_{t - taps + 1 + j}): a token and the `taps - 1` before it; X channels."""

    def __init__(self, channels: int, taps: int, *, bias: bool) -> None:
        super().__init__()
        self.taps = taps
        bound = taps**-0.5  # torch's own first draw of a convolution, in float32: the same numbers in every format
        first = torch.empty(channels, taps, dtype=torch.float32).uniform_(-bound, bound)
        self.weight = nn.Parameter(first.to(torch.get_default_dtype()))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x_BTX: Tensor, before: Tensor | None, runs: Runs | None) -> Tensor:
        """Return BTX.

        Args:
            x_BTX: the new tokens.
            before: the `taps - 1` tokens before them; None where there are none.
            runs: packed rows, of which tokens of different runs do not meet.
        """
        num_before = 0 if before is None else self.taps - 1
        if before is None and runs is None and x_BTX.device.type == "cuda" and _OWN is not None:
            return _OWN(x_BTX, self.weight, self.bias)
        if before is not None:
            x_BTX = torch.cat((before, x_BTX), 1)
        weight, bias = self.weight.to(x_BTX.dtype), None if self.bias is None else self.bias.to(x_BTX.dtype)
        if num_before and x_BTX.shape[1] == self.taps:  # one token
            y_BX = (x_BTX * weight.t()).sum(1)
            return F.silu(y_BX if bias is None else y_BX + bias)[:, None]
        kernel = _KERNEL.find(x_BTX.device, x_BTX.dtype, gradients=torch.is_grad_enabled())
        if kernel is not None:
            ends = None if runs is None else runs.bounds(x_BTX.shape[0])
            flat = x_BTX if runs is None else in_one_row(x_BTX)
            y = kernel(flat, weight=weight, bias=bias, activation="silu", cu_seqlens=ends)[0]
            return torch.as_tensor(y).view_as(x_BTX)[:, num_before:]
        if runs is not None:
            delayed = self._delayed(x_BTX, runs)
            y_BTX = sum(x * weight[:, self.taps - 1 - distance] for distance, x in enumerate(delayed))
            return F.silu(torch.as_tensor(y_BTX if bias is None else y_BTX + bias))
        padding = 0 if num_before else self.taps - 1
        y_BXT = F.conv1d(x_BTX.mT, weight[:, None], bias, padding=padding, groups=weight.shape[0])
        return F.silu(y_BXT.mT[:, : x_BTX.shape[1] - num_before])

    def reference(self, x_BTX: Tensor, runs: Runs | None) -> Tensor:
        """Return the same as a product of each channel's last tokens and its weights, which torch counts exactly."""
        y_BTX = torch.einsum("jbtx,xj->btx", torch.stack(self._delayed(x_BTX, runs)), self.weight.flip(1))
        return F.silu(y_BTX if self.bias is None else y_BTX + self.bias)

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return what goes into the SiLU, with the padding before the first token; our kernel works it out again.

        What the convolution takes and what it gives are the mixer's to count.
        """
        if ahead.kernels:
            return 0.0
        return float(ahead.rows * (ahead.tokens + self.taps - 1) * len(self.weight) * ahead.dtype_bytes)

    def flops_per_token(self) -> float:
        """Return two operations for each weight."""
        return 2.0 * self.weight.numel()

    def _delayed(self, x_BTX: Tensor, runs: Runs | None) -> list[Tensor]:
        """Return the tokens, those one before them, those two before them …; 0 where there is none in the run."""
        delayed = [x_BTX]
        for distance in range(1, self.taps):
            before_BTX = F.pad(x_BTX, (0, 0, distance, 0))[:, : x_BTX.shape[1]]
            delayed.append(before_BTX if runs is None else before_BTX * runs.together(distance)[..., None])
        return delayed


def _load() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """Return the kernels' operator, or None where torch knows no CUDA or Triton is missing."""
    if torch.version.cuda is None:
        return None
    try:
        from efficientllm.models.mixers._short_conv_kernel import short_conv
    except ImportError:
        return None
    return short_conv


_OWN = _load()
