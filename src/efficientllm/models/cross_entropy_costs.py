"""What the loss of `cross_entropy.py` takes in training, counted from shapes: chunk by chunk, or all logits at once."""

from __future__ import annotations

from typing import NamedTuple

from efficientllm.models.cross_entropy import LOGITS_BYTES, even_chunk
from efficientllm.models.forward_pass import FLOAT, ForwardPass


class LossBytes(NamedTuple):
    """Bytes of the loss, beside the hidden state that it reads.

    Attributes:
        forward: most while it is computed.
        backward: most while its gradients are handed on.
    """

    forward: float
    backward: float


def loss_bytes(ahead: ForwardPass, width: int, vocab_tokens: int, *, trains_head: bool = True) -> LossBytes:
    """Return what logits, the head's copy and the gradients of both take; a frozen head has none."""
    limit = LOGITS_BYTES["cuda" if ahead.accelerator else "cpu"]
    most = max(1, limit // ((ahead.dtype_bytes if ahead.kernels else FLOAT) * vocab_tokens))
    copy = vocab_tokens * width * ahead.dtype_bytes if ahead.autocast else 0
    if ahead.num_tokens <= most and not ahead.kernels:
        return _whole(ahead, width, vocab_tokens, copy)
    chunk = min(ahead.num_tokens, even_chunk(ahead.num_tokens, most))
    kept = ahead.residuals(width)  # gradients of the hidden state and of the head
    kept += vocab_tokens * width * FLOAT if trains_head else 0
    forward = kept + copy + _chunk(ahead, width, vocab_tokens, chunk)
    # The head's gradient is handed on as it is if weights are float32; else one in their type is made beside it.
    made = 0 if ahead.weight_bytes == FLOAT or not trains_head else vocab_tokens * width * ahead.weight_bytes
    return LossBytes(forward, kept + made)


def _whole(ahead: ForwardPass, width: int, vocab_tokens: int, copy: int) -> LossBytes:
    """Return those of torch's own loss: float32 logits and their log-softmax; then that, its gradient, the logits'."""
    logits = ahead.floats(vocab_tokens)
    given = copy + (ahead.numbers(width) if ahead.autocast else 0.0)
    return LossBytes(given + 2 * logits, given + 3 * logits)


def _chunk(ahead: ForwardPass, width: int, vocab_tokens: int, chunk: int) -> float:
    """Return one chunk's: the kernel writes over the logits; torch exponentiates a float32 copy of them."""
    rows = 2.0 * chunk * width * ahead.dtype_bytes
    if ahead.kernels:
        return rows + chunk * vocab_tokens * ahead.dtype_bytes
    product = vocab_tokens * width * ahead.dtype_bytes if ahead.dtype_bytes < FLOAT else 0
    exponentials = 2.0 * FLOAT * chunk * vocab_tokens
    return rows + max(exponentials, chunk * vocab_tokens * ahead.dtype_bytes + product)
