"""What the chunked recurrences of `_chunked.py` keep, where their backward pass computes nothing again: float32.

Chunks of L tokens make L numbers a head and token of each matrix between tokens; the carried states are kept twice, as
they were read in the chunks and as they were carried.
"""

from __future__ import annotations

from efficientllm.models.forward_pass import FLOAT, ForwardPass
from efficientllm.models.mixers._chunked import CHUNK_TOKENS


def chunks_of(tokens: int) -> tuple[int, int]:
    """Return number and length of the chunks.

    >>> chunks_of(64), chunks_of(100)
    ((1, 64), (2, 50))
    """
    num_chunks = -(-tokens // CHUNK_TOKENS)
    return num_chunks, -(-tokens // num_chunks)


def state_space_bytes(ahead: ForwardPass, heads: int, key_dim: int, value_dim: int) -> float:
    """Return what `state_space` keeps; all heads share queries and keys."""
    num_chunks, length = chunks_of(ahead.tokens)
    token = 2 * heads * length + 4 * heads * value_dim + 4 * key_dim + length + 2 * heads
    return _bytes(ahead, token, 2 * num_chunks * heads * key_dim * value_dim)


def gated_delta_bytes(ahead: ForwardPass, heads: int, key_dim: int, value_dim: int) -> float:
    """Return what `gated_delta` keeps."""
    num_chunks, length = chunks_of(ahead.tokens)
    token = heads * (5 * length + 9 * key_dim + value_dim + (key_dim + value_dim) + 3)
    states = 2 * num_chunks * key_dim * value_dim + (num_chunks - 1) * key_dim**2
    return _bytes(ahead, token, heads * states)


def vector_delta_bytes(ahead: ForwardPass, heads: int, key_dim: int, value_dim: int) -> float:
    """Return what `vector_delta` keeps."""
    num_chunks, length = chunks_of(ahead.tokens)
    token = heads * (4 * length + 20 * key_dim + (key_dim + value_dim))
    states = 2 * num_chunks * key_dim * value_dim + (num_chunks - 1) * key_dim**2
    return _bytes(ahead, token, heads * states)


def chunk_gradients_bytes(ahead: ForwardPass, heads: int, matrices: int, vectors: int) -> float:
    """Return gradients of so many matrices between tokens (L a head and token), and of numbers a head and token."""
    return _bytes(ahead, heads * (matrices * chunks_of(ahead.tokens)[1] + vectors), 0)


def _bytes(ahead: ForwardPass, of_token: float, of_row: float) -> float:
    num_chunks, length = chunks_of(ahead.tokens)
    return FLOAT * ahead.rows * (num_chunks * length * of_token + of_row)
