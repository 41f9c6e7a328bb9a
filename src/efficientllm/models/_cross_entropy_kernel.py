"""Triton kernel of the cross-entropy: a row's loss, and its logits replaced by their gradient, in two passes.

    pass 1   reads a row of logits: largest value and sum of exponentials
    pass 2   reads it again and writes the gradient over it: softmax, minus one at the target, times the row's share

So the logits of a chunk cross the memory three times, in their own number format, and nothing of their size is added.
"""

# Triton reads annotations: those of pointers and numbers must not be there.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from efficientllm.models.kernel_case import KernelCase

_BLOCK, _WARPS = 8192, 8


@triton.jit
def loss_and_gradient(
    logits, targets, share, losses, vocab_tokens, row_stride, BLOCK: tl.constexpr
) -> None:  # fmt: skip
    """One program a row; a target below 0 does not count: no loss, no gradient."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    counts = target >= 0
    begin = logits + row * row_stride
    # read before the first pass: its reductions keep all threads from writing over it too early
    of_target = tl.load(begin + tl.where(counts, target, 0)).to(tl.float32)
    largest = -float("inf")
    total = 0.0
    for start in range(0, vocab_tokens, BLOCK):
        places = start + tl.arange(0, BLOCK)
        x = tl.load(begin + places, mask=places < vocab_tokens, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(largest, tl.max(x))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(x - higher))
        largest = higher
    log_sum = largest + tl.log(total)
    tl.store(losses + row, tl.where(counts, log_sum - of_target, 0.0))
    factor = tl.where(counts, tl.load(share), 0.0)
    for start in range(0, vocab_tokens, BLOCK):
        places = start + tl.arange(0, BLOCK)
        inside = places < vocab_tokens
        x = tl.load(begin + places, mask=inside, other=-float("inf")).to(tl.float32)
        pull = (tl.exp(x - log_sum) - tl.where(places == target, 1.0, 0.0)) * factor
        tl.store(begin + places, pull.to(logits.dtype.element_ty), mask=inside)


def replace_by_gradient(logits_CV: Tensor, targets_C: Tensor, share: Tensor) -> Tensor:
    """Write the gradient of the logits over them and return the losses, float32 C, 0 where a target does not count.

    Args:
        logits_CV: rows without gaps; float32, bfloat16 or float16.
        targets_C: token ids, negative where they do not count.
        share: float32 scalar on the device by which the gradient is multiplied, 1 / N for a mean.
    """
    losses_C = torch.empty(len(logits_CV), dtype=torch.float32, device=logits_CV.device)
    loss_and_gradient[(len(logits_CV),)](
        logits_CV, targets_C, share, losses_C, logits_CV.shape[1], logits_CV.stride(0), BLOCK=_BLOCK, num_warps=_WARPS
    )
    return losses_C


def aot_cases() -> Iterator[KernelCase]:
    """Yield the ways in which the kernel is launched."""
    for dtype in ("bf16", "fp16", "fp32"):
        signature = {"logits": f"*{dtype}", "targets": "*i64", "share": "*fp32", "losses": "*fp32"}
        yield KernelCase(
            name=f"loss_and_gradient {dtype}",
            kernel=loss_and_gradient,
            signature={**signature, "vocab_tokens": "i32", "row_stride": "i32", "BLOCK": "constexpr"},
            constants={"BLOCK": _BLOCK},
            options={"num_warps": _WARPS, "num_stages": 3},
        )
