"""NSA in the plainest form: one sequence a row, every score of every branch written out. The others are held to it."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.models.mixers._nsa_blocks import Blocks
from efficientllm.models.mixers._nsa_select import choose_blocks, entry_probabilities, layout_of


def reference_branches(
    q_BNTH: Tensor, compressed: tuple[Tensor, Tensor], selected: tuple[Tensor, Tensor], sliding: tuple[Tensor, Tensor],
    blocks: Blocks, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the results of the three branches, BNTH each.

    Args:
        q_BNTH: queries.
        compressed: keys and values of the compressed entries, BKEH.
        selected: keys and values of the tokens, BKTH, of which blocks are selected.
        sliding: keys and values of the tokens, BKTH, of which the last are seen.
        blocks: the options.
        scale: factor of the scores.
    """
    num_tokens, num_kv_heads = q_BNTH.shape[2], selected[0].shape[1]
    token_T = torch.arange(num_tokens, device=q_BNTH.device)
    layout = layout_of(blocks, token_T[None], compressed[0].shape[2], num_tokens)
    weights_BKGTE = entry_probabilities(q_BNTH, compressed[0], layout.visible(), scale)
    weights_BNTE = weights_BKGTE.flatten(1, 2).to(q_BNTH.dtype)
    group = q_BNTH.shape[1] // num_kv_heads
    compressed_BNTH = weights_BNTE @ compressed[1].repeat_interleave(group, 1)

    picks_BKTn = choose_blocks(weights_BKGTE, layout, blocks)
    block_of_token_T = token_T // blocks.select_block
    chosen_BKTT = (picks_BKTn[..., None, :] == block_of_token_T[:, None]).any(-1)
    past_TT = token_T <= token_T[:, None]
    near_TT = past_TT & (token_T > token_T[:, None] - blocks.window)
    selected_BNTH = _attend(q_BNTH, *selected, (chosen_BKTT & past_TT).repeat_interleave(group, 1), scale)
    return compressed_BNTH, selected_BNTH, _attend(q_BNTH, *sliding, near_TT, scale)


def _attend(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, visible: Tensor, scale: float) -> Tensor:
    group = q_BNTH.shape[1] // k_BKTH.shape[1]
    k_BNTH, v_BNTH = k_BKTH.repeat_interleave(group, 1), v_BKTH.repeat_interleave(group, 1)
    scores_BNTT = (q_BNTH @ k_BNTH.transpose(2, 3) * scale).masked_fill(~visible, -torch.inf)
    weights = scores_BNTT.softmax(-1, dtype=torch.promote_types(scores_BNTT.dtype, torch.float32))
    return weights.to(v_BNTH.dtype) @ v_BNTH
