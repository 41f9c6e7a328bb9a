"""NSA's step over one new token: every branch reads its own cache, each vector it needs once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efficientllm.models.mixers._nsa_branches import one_token_branch
from efficientllm.models.mixers._nsa_select import choose_blocks, entry_probabilities, layout_of
from efficientllm.models.mixers._nsa_state import NsaState, Pair, put_one, rows_at
from efficientllm.models.position._contract import Positions

if TYPE_CHECKING:
    from efficientllm.models.mixers.nsa import NativeSparseAttention


def nsa_step(
    mixer: NativeSparseAttention,
    q_BNH: Tensor,
    raw: Pair,
    selected: Pair,
    sliding: Pair,
    positions: Positions,
    state: NsaState,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add one token to the state and return what it gets from the three branches, BN1H each.

    With fixed shapes nothing depends on the host's length: the token stands at the device's position, all entries there
    is room for are scored, and an entry is computed in every step, of which each `compress_stride`-th is a whole one.
    """
    fixed = state.is_fixed_step(1)
    if fixed:
        here_1 = positions.index_BT[0]
    else:
        state.check_room(1)
        here_1 = torch.full((1,), state.length, device=q_BNH.device)
    put_one(state.selected, selected, here_1)
    put_one(state.sliding, sliding, here_1 % state.sliding[0].shape[2])
    put_one(state.raw, raw, here_1 % state.raw[0].shape[2])
    compressed = _entries(mixer, positions, state, here_1, fixed)
    layout = layout_of(mixer.blocks, here_1[None], compressed[0].shape[2], _seen(state, fixed))
    weights_BKG1E = entry_probabilities(q_BNH[:, :, None], compressed[0], layout.visible(), mixer.scale)
    compressed_BNH = (weights_BKG1E[..., 0, :].to(compressed[1].dtype) @ compressed[1]).flatten(1, 2)
    if _seen(state, fixed) <= mixer.blocks.reach:
        selected_BNH = _all_tokens(mixer, q_BNH, state, here_1, fixed)
    else:
        picks_BKn = choose_blocks(weights_BKG1E, layout, mixer.blocks)[:, :, 0]
        selected_BNH = _picked_tokens(mixer, q_BNH, state, here_1, picks_BKn)
    sliding_BNH = _ring_tokens(mixer, q_BNH, state, here_1)
    return compressed_BNH[:, :, None], selected_BNH[:, :, None], sliding_BNH[:, :, None]


def _seen(state: NsaState, fixed: bool) -> int:
    """Return how many places for tokens the step looks at."""
    return state.max_tokens if fixed else state.length + 1


def _entries(mixer: NativeSparseAttention, positions: Positions, state: NsaState, here_1: Tensor, fixed: bool) -> Pair:
    """Write the entry that the new token completes, if it does, and return those that are to be scored."""
    blocks = mixer.blocks
    # With fixed shapes the host's length is not even read: a compiler would make a new program for each.
    if fixed or blocks.num_entries(state.length + 1) > blocks.num_entries(state.length):
        slots_C = torch.arange(1 - blocks.compress_block, 1, device=here_1.device) + here_1
        slots_C = slots_C % state.raw[0].shape[2]  # never negative: torch's remainder has the divisor's sign
        keys, values = (part.index_select(2, slots_C) for part in state.raw)
        entry = mixer.compress((keys, values), positions, torch.zeros_like(here_1)[None], consecutive=True)
        # The next entry that the token's block can be: until the block is complete, nothing sees what is written there.
        past_first_1 = here_1 - (blocks.compress_block - 1)
        entry_1 = ((past_first_1 + (blocks.compress_stride - 1)) // blocks.compress_stride).clamp(min=0)
        put_one(state.compressed, entry, entry_1)
    if fixed:
        return state.compressed
    keys, values = (part[:, :, : blocks.num_entries(state.length + 1)] for part in state.compressed)
    return keys, values


def _all_tokens(mixer: NativeSparseAttention, q_BNH: Tensor, state: NsaState, here_1: Tensor, fixed: bool) -> Tensor:
    """Return the selected branch where there is no block that is not selected."""
    keys, values = (part[:, :, : _seen(state, fixed)] for part in state.selected)
    visible_S = torch.arange(keys.shape[2], device=here_1.device) <= here_1
    return one_token_branch(q_BNH, keys, values, visible_S[None, None], mixer.scale)


def _picked_tokens(
    mixer: NativeSparseAttention, q_BNH: Tensor, state: NsaState, here_1: Tensor, picks_BKn: Tensor
) -> Tensor:
    """Return the selected branch: the picked blocks' tokens, copied together, of which some may not exist."""
    size = mixer.blocks.select_block
    index_BKnS = picks_BKn[..., None] * size + torch.arange(size, device=here_1.device)
    visible_BKS = ((index_BKnS >= 0) & (index_BKnS <= here_1)).flatten(2)
    index_BKS = index_BKnS.flatten(2).clamp(0, state.max_tokens - 1)
    keys, values = (rows_at(part, index_BKS) for part in state.selected)
    return one_token_branch(q_BNH, keys, values, visible_BKS, mixer.scale)


def _ring_tokens(mixer: NativeSparseAttention, q_BNH: Tensor, state: NsaState, here_1: Tensor) -> Tensor:
    """Return the sliding branch: all of the ring, once it is full."""
    visible_S = torch.arange(state.sliding[0].shape[2], device=here_1.device) <= here_1
    return one_token_branch(q_BNH, *state.sliding, visible_S[None, None], mixer.scale)
