"""What softmax attention over many tokens keeps for the backward pass, and what that holds besides."""

from __future__ import annotations

from efficientllm.models.forward_pass import ForwardPass


def attention_bytes(ahead: ForwardPass, num_heads: int, result_rows: int) -> float:
    """Return the result of all heads and each query's log-sum; queries, keys and values are counted by the mixer.

    Flash, cuDNN's and the processor's kernel keep the same.
    """
    return ahead.numbers(result_rows) + ahead.floats(num_heads)


def attention_working_bytes(ahead: ForwardPass, query_rows: int) -> float:
    """Return what the backward kernels hold for themselves: the queries' gradient is summed in float32 on CUDA."""
    return ahead.floats(query_rows) if ahead.accelerator else 0.0


def repeats_keys(ahead: ForwardPass, grouped: bool, window: int) -> bool:
    """Whether keys and values are written out for each query head: see `_attention.attention`."""
    masked = ahead.biases_scores or 0 < window < ahead.tokens
    return grouped and ahead.accelerator and (masked or ahead.dtype_bytes > 2)
