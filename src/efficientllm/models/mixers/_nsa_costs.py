"""What NSA's forward pass in training keeps for the backward pass, branch by branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from efficientllm.models.forward_pass import FLOAT, ForwardPass
from efficientllm.models.mixers._attention_costs import attention_bytes
from efficientllm.models.mixers._nsa_branches import PIECE_TOKENS, WRITTEN_SCORES

if TYPE_CHECKING:
    from efficientllm.models.mixers.nsa import NativeSparseAttention


def saved_bytes(nsa: NativeSparseAttention, ahead: ForwardPass) -> float:
    """Return what is kept: what goes into projections, gates and output, the compression, the branches' results."""
    given = nsa.shape.width * (1 if ahead.compiled or not ahead.autocast else 2)  # eager, both projections cast it
    kept = ahead.numbers(given + nsa.q_rows + 3 * nsa.num_heads) + _compression(nsa, ahead)
    selected = _everything if ahead.tokens <= nsa.blocks.reach else _kernel if ahead.kernels else _pieces
    return kept + _compressed(nsa, ahead) + selected(nsa, ahead) + _sliding(nsa, ahead)


def _compression(nsa: NativeSparseAttention, ahead: ForwardPass) -> float:
    """Return the blocks side by side, both sides of the GELU, and the entries, for keys and values."""
    entries = 2 * ahead.rows * nsa.blocks.num_entries(ahead.tokens) * nsa.kv_rows * ahead.dtype_bytes
    return float(entries * (nsa.blocks.compress_block + 3))


def _compressed(nsa: NativeSparseAttention, ahead: ForwardPass) -> float:
    """Return queries, weights where they are written out, and the result."""
    entries = nsa.blocks.num_entries(ahead.tokens)
    mask = ahead.tokens * entries
    if ahead.rows * nsa.num_heads * max(1, entries) * ahead.tokens > WRITTEN_SCORES:
        repeated = 2 * ahead.rows * entries * nsa.q_rows * ahead.dtype_bytes if ahead.accelerator else 0.0
        return ahead.numbers(2 * nsa.q_rows) + repeated + mask + attention_bytes(ahead, nsa.num_heads, nsa.q_rows)
    weights = nsa.num_heads * entries
    scores = ahead.numbers(weights) if ahead.compiled else ahead.floats(weights) + 2 * mask
    cast = weights if ahead.compiled or ahead.dtype_bytes < FLOAT else 0
    return ahead.numbers(2 * nsa.q_rows + cast) + scores


def _everything(nsa: NativeSparseAttention, ahead: ForwardPass) -> float:
    """Return what plain attention keeps: values are a view of the projections, keys one of two branches' keys."""
    rows = nsa.q_rows + 6 * nsa.kv_rows
    return ahead.numbers(rows + nsa.q_rows + 2 * nsa.kv_rows) + attention_bytes(ahead, nsa.num_heads, nsa.q_rows)


def _kernel(nsa: NativeSparseAttention, ahead: ForwardPass) -> float:
    """Return the same, and the blocks that each query selects."""
    picks = ahead.num_tokens * nsa.num_kv_heads * nsa.blocks.num_selected * FLOAT
    return _everything(nsa, ahead) + picks


def _pieces(nsa: NativeSparseAttention, ahead: ForwardPass) -> float:
    """Return what masked attention in pieces keeps: each piece's keys and values up to it, its mask, its result."""
    kept = ahead.numbers(nsa.q_rows)  # all pieces' results, side by side
    for first in range(0, ahead.tokens, PIECE_TOKENS):
        seen = min(ahead.tokens, first + PIECE_TOKENS)
        new = seen - first
        mask = nsa.num_kv_heads * new * seen
        keys = 2 * seen * (nsa.q_rows if ahead.accelerator else nsa.kv_rows)
        numbers = keys + 2 * new * nsa.q_rows + (0 if ahead.accelerator else mask)
        kept += ahead.rows * (numbers * ahead.dtype_bytes + new * nsa.num_heads * FLOAT)
        kept += ahead.rows * mask if ahead.accelerator else 0
    return kept


def _sliding(nsa: NativeSparseAttention, ahead: ForwardPass) -> float:
    """Return keys and values of two windows for each, queries, the mask, and the result."""
    window = nsa.blocks.window
    blocks = ahead.rows * -(-ahead.tokens // window)
    keys = 2 * 2 * (nsa.q_rows if ahead.accelerator else nsa.kv_rows)
    mask = blocks * window * 2 * window * (1 if ahead.accelerator else ahead.dtype_bytes)
    # Where the last window is not full, queries are filled up and lie in another order, of which the result is copied.
    results = 3 if ahead.tokens % window and ahead.tokens > window else 2
    token = (keys + results * nsa.q_rows) * ahead.dtype_bytes + nsa.num_heads * FLOAT
    return float(blocks * window * token + mask)
