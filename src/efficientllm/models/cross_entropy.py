"""Cross-entropy from the hidden state, in chunks: the logits of a large vocabulary never exist all at once.

    hidden ND ── head ── logits CV of one chunk ── loss, and at once its gradients

The gradients are taken while the chunk's logits are there, so nothing is computed twice; the backward pass only scales
them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Targets with this value do not count.
IGNORE = -100

#: Most bytes of float32 logits at once; fewer than that are not cut into chunks.
LOGITS_BYTES = 512 * 1024**2


def mean_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, logits_bytes: int = LOGITS_BYTES
) -> Tensor:
    """Return the mean loss in nats over the targets that count, a float32 scalar with gradients."""
    chunk = chunk_tokens(head_VD.shape[0], logits_bytes)
    if hidden_ND.shape[0] <= chunk:
        return F.cross_entropy(F.linear(hidden_ND, head_VD).float(), targets_N, ignore_index=IGNORE)
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head_VD, targets_N, chunk
    )
    return loss


@torch.no_grad()
def sum_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, logits_bytes: int = LOGITS_BYTES
) -> tuple[Tensor, Tensor]:
    """Return the summed loss in nats (float64) and the number of targets that count, as scalars on the device."""
    total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
    chunk = chunk_tokens(head_VD.shape[0], logits_bytes)
    for hidden, targets in zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True):
        logits = F.linear(hidden, head_VD).float()
        losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
        total += losses.sum(dtype=torch.float64)
    return total, (targets_N != IGNORE).sum()


def chunk_tokens(vocab_tokens: int, logits_bytes: int = LOGITS_BYTES) -> int:
    """Return how many tokens' logits fit into the limit.

    >>> chunk_tokens(2048), chunk_tokens(151_936)
    (65536, 883)
    """
    return max(1, logits_bytes // (4 * vocab_tokens))


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk: int) -> Tensor:
        """Return the mean loss; the gradients are taken here and kept for the backward pass."""
        device = hidden_ND.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden_ND.dtype
        with torch.autocast(device, enabled=False):
            return _forward(ctx, hidden_ND, head_VD, targets_N, chunk, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the kept gradients, scaled by what comes from above."""
        grad_hidden_ND, grad_head_VD, share = ctx.saved_tensors
        scale = grad * share
        return grad_hidden_ND * scale.to(grad_hidden_ND.dtype), grad_head_VD * scale.to(grad_head_VD.dtype), None, None


def _forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
    counted = targets_N != IGNORE
    share = 1.0 / counted.sum().clamp(min=1)
    total = torch.zeros((), device=hidden_ND.device)
    grad_hidden_ND = torch.empty_like(hidden_ND)
    grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32)
    head = head_VD.to(dtype)
    for start in range(0, hidden_ND.shape[0], chunk):
        rows = slice(start, start + chunk)
        hidden = hidden_ND[rows].to(dtype)
        logits_CV = F.linear(hidden, head).float()
        weight_C1 = counted[rows, None].float()  # the mean's 1/N comes last: it would underflow in float16
        target_C1 = targets_N[rows].clamp(min=0)[:, None]
        log_sum_C1 = logits_CV.logsumexp(-1, keepdim=True)
        total += ((log_sum_C1 - logits_CV.gather(-1, target_C1)) * weight_C1).sum()
        pull_CV = logits_CV.sub_(log_sum_C1).exp_().mul_(weight_C1)  # gradient of the logits: softmax …
        pull = pull_CV.scatter_add_(-1, target_C1, -weight_C1).to(dtype)  # … minus one at the target
        grad_hidden_ND[rows] = (pull @ head).to(hidden_ND.dtype)
        grad_head_VD += pull.t() @ hidden
    ctx.save_for_backward(grad_hidden_ND, grad_head_VD.to(head_VD.dtype), share)
    return total * share
