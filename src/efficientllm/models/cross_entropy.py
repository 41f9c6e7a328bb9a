"""Cross-entropy from the hidden state, in chunks: the logits of a large vocabulary never exist all at once.

    hidden ND ── head ── logits CV of one chunk ── loss, and at once its gradients

The gradients are taken while the chunk's logits are there, so nothing is computed twice; the backward pass only scales
them. On CUDA a Triton kernel writes the logits' gradient over them in their own number format
(`_cross_entropy_kernel.py`); elsewhere, or without Triton, torch does it in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Targets with this value do not count.
IGNORE = -100

#: Most bytes of logits at once; fewer than that are not cut into chunks. On CUDA as many as keep the products large:
#: the gradient of the head is read and written once a chunk. On a processor a chunk that stays near its cache.
LOGITS_BYTES = {"cuda": 1280 * 1024**2, "cpu": 512 * 1024**2}

#: Chunks hold a multiple of so many tokens, which the products' tiles divide.
_MULTIPLE = 128

ReplaceByGradient = Callable[[Tensor, Tensor, Tensor], Tensor]


def mean_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, logits_bytes: int | None = None
) -> Tensor:
    """Return the mean loss in nats over the targets that count, a float32 scalar with gradients.

    The backward pass can be taken once: it uses up what the forward pass kept. A head that needs no gradient gets none,
    and no memory is taken for it.
    """
    chunk = chunk_tokens(hidden_ND, head_VD, logits_bytes)
    if hidden_ND.shape[0] <= chunk and not _kernel_serves(hidden_ND):
        return F.cross_entropy(F.linear(hidden_ND, head_VD).float(), targets_N, ignore_index=IGNORE)
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head_VD, targets_N, chunk
    )
    return loss


@torch.no_grad()
def sum_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, logits_bytes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the summed loss in nats (float64) and the number of targets that count, as scalars on the device."""
    total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
    chunk = chunk_tokens(hidden_ND, head_VD, logits_bytes, itemsize=4)
    for hidden, targets in zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True):
        logits = F.linear(hidden, head_VD).float()
        losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
        total += losses.sum(dtype=torch.float64)
    return total, (targets_N != IGNORE).sum()


def chunk_tokens(
    hidden_ND: Tensor, head_VD: Tensor, logits_bytes: int | None = None, itemsize: int | None = None
) -> int:
    """Return how many tokens a chunk has: nearly equal chunks, of which each one's logits fit into the limit.

    Args:
        hidden_ND: the tokens.
        head_VD: the vocabulary.
        logits_bytes: the limit; by default that of the device.
        itemsize: bytes of a logit; by default those that the training pass has.
    """
    num_tokens, vocab_tokens = hidden_ND.shape[0], head_VD.shape[0]
    if logits_bytes is None:
        logits_bytes = LOGITS_BYTES.get(hidden_ND.device.type, LOGITS_BYTES["cpu"])
    if itemsize is None:
        itemsize = _product_dtype(hidden_ND).itemsize if _kernel_serves(hidden_ND) else 4
    return even_chunk(num_tokens, max(1, logits_bytes // (itemsize * vocab_tokens)))


def even_chunk(num_tokens: int, most: int) -> int:
    """Return the length of the fewest nearly equal chunks of at most so many tokens.

    >>> even_chunk(16384, 4417), even_chunk(100, 4417), even_chunk(1000, 7)
    (4096, 4417, 7)
    """
    if num_tokens <= most or most < _MULTIPLE:
        return most
    whole = most // _MULTIPLE * _MULTIPLE
    num_chunks = -(-num_tokens // whole)
    return -(-num_tokens // num_chunks // _MULTIPLE) * _MULTIPLE


def _product_dtype(hidden_ND: Tensor) -> torch.dtype:
    """Return the type of the logits as the product with the head gives them."""
    device = hidden_ND.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return hidden_ND.dtype
    return torch.get_autocast_dtype(device)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk: int) -> Tensor:
        """Return the mean loss; the gradients are taken here and kept for the backward pass."""
        dtype = _product_dtype(hidden_ND)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return _forward(ctx, hidden_ND, head_VD, targets_N, chunk, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Return the kept gradients, scaled in place by what comes from above."""
        if ctx.kept is None:
            raise RuntimeError("the gradients of this loss have been taken already: compute the loss again")
        grad_hidden_ND, grad_head_VD, scale = ctx.kept
        ctx.kept = None
        factor = grad if scale is None else grad * scale
        grad_head = None if grad_head_VD is None else grad_head_VD.mul_(factor).to(ctx.head_dtype)
        return grad_hidden_ND.mul_(factor), grad_head, None, None


def _forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
    share = 1.0 / (targets_N != IGNORE).sum().clamp(min=1)
    # In float16 the gradients would underflow with the mean's 1/N: there it comes last.
    early = torch.ones_like(share) if dtype == torch.float16 else share
    grad_hidden_ND = torch.empty_like(hidden_ND)
    grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
    head, losses = head_VD.to(dtype), []
    replace = _KERNEL if _KERNEL is not None and _kernel_serves(hidden_ND) else _replace_by_gradient
    for start in range(0, hidden_ND.shape[0], chunk):
        rows = slice(start, start + chunk)
        hidden = hidden_ND[rows].to(dtype)
        pull_CV = F.linear(hidden, head)
        if replace is _replace_by_gradient:
            pull_CV = pull_CV.float()
        losses.append(replace(pull_CV, targets_N[rows], early).sum())
        pull_CV = pull_CV.to(dtype)
        grad_hidden_ND[rows] = pull_CV @ head
        if grad_head_VD is not None:
            _add_product(grad_head_VD, pull_CV.t(), hidden)
        del pull_CV  # before the next chunk's logits are made
    ctx.kept = grad_hidden_ND, grad_head_VD, None if dtype != torch.float16 else share
    ctx.head_dtype = head_VD.dtype
    return torch.stack(losses).sum() * share


def _add_product(total_VD: Tensor, a_VC: Tensor, b_CD: Tensor) -> None:
    """Add a product to a float32 sum, in the product's own accumulators where the device can."""
    if a_VC.dtype == torch.float32:
        total_VD.addmm_(a_VC, b_CD)
    elif a_VC.device.type == "cuda":
        torch.addmm(total_VD, a_VC, b_CD, out_dtype=torch.float32, out=total_VD)
    else:
        total_VD += a_VC @ b_CD


def _replace_by_gradient(logits_CV: Tensor, targets_C: Tensor, share: Tensor) -> Tensor:
    """Do what the kernel does, in torch; see `_cross_entropy_kernel.replace_by_gradient`."""
    counted_C1 = (targets_C >= 0)[:, None].float()
    target_C1 = targets_C.clamp(min=0)[:, None]
    log_sum_C1 = logits_CV.logsumexp(-1, keepdim=True)
    losses_C1 = (log_sum_C1 - logits_CV.gather(-1, target_C1)) * counted_C1
    factor_C1 = counted_C1 * share
    logits_CV.sub_(log_sum_C1).exp_().mul_(factor_C1).scatter_add_(-1, target_C1, -factor_C1)
    return losses_C1[:, 0]


def _kernel_serves(hidden: Tensor) -> bool:
    return hidden.device.type == "cuda" and _KERNEL is not None


def _load() -> ReplaceByGradient | None:
    """Return the kernel's launch, or None where torch knows no CUDA or Triton is missing."""
    if torch.version.cuda is None:
        return None
    try:
        from efficientllm.models._cross_entropy_kernel import replace_by_gradient
    except ImportError:
        return None
    return replace_by_gradient


_KERNEL = _load()
