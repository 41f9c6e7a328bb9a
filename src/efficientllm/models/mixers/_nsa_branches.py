"""NSA's branches, fast over many tokens and over one new token, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.mixers._nsa_blocks import Blocks
from efficientllm.models.mixers._nsa_select import Layout, choose_blocks, entry_probabilities

#: Scores of the compressed branch that are written out at once; with more, queries go in pieces and none are kept.
WRITTEN_SCORES = 2**24

#: Queries of a piece of the selected branch: a piece sees no key after it, and its mask stays small.
PIECE_TOKENS = 512


def compressed_branch(
    q_BNTH: Tensor, k_BKEH: Tensor, v_BKEH: Tensor, layout: Layout, blocks: Blocks, scale: float, choose: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the compressed branch, BNTH, and the blocks that it chooses, BKTn, where `choose` says so."""
    batch, num_heads, new, _ = q_BNTH.shape
    row_scores = batch * num_heads * max(1, k_BKEH.shape[2])
    if row_scores * new <= WRITTEN_SCORES:
        weights_BKGTE = entry_probabilities(q_BNTH, k_BKEH, layout.visible(), scale)
        mixed_BKXH = weights_BKGTE.to(v_BKEH.dtype).flatten(2, 3) @ v_BKEH
        picks_BKTn = choose_blocks(weights_BKGTE, layout, blocks) if choose else None
        return mixed_BKXH.view(batch, num_heads, new, -1), picks_BKTn
    picks = []
    piece = max(16, WRITTEN_SCORES // row_scores)
    for first in range(0, new, piece) if choose else ():
        part = layout.rows(first, first + piece)
        with torch.no_grad():
            weights_BKGTE = entry_probabilities(q_BNTH[:, :, first : first + piece], k_BKEH, part.visible(), scale)
            picks.append(choose_blocks(weights_BKGTE, part, blocks))
    visible_BTE = layout.visible()
    some_BT1 = visible_BTE.any(-1, keepdim=True)
    # A query that sees no entry is let see all, and its result thrown away: kernels differ in what they make of it.
    mixed_BNTH = _masked(q_BNTH, k_BKEH, v_BKEH, (visible_BTE | ~some_BT1)[:, None], scale) * some_BT1[:, None]
    return mixed_BNTH, torch.cat(picks, 2) if picks else None


def selected_branch(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, picks_BKTn: Tensor, layout: Layout, blocks: Blocks, scale: float
) -> Tensor:
    """Return the selected branch, BNTH, as attention over all past tokens of which most are masked.

    The T queries are those of the last T keys.
    """
    new, num_keys = q_BNTH.shape[2], k_BKSH.shape[2]
    index_1S = torch.arange(num_keys, device=q_BNTH.device)[None]
    # With several sequences a row, keys are the queries' own tokens; with one, sequences start at 0.
    start_of_key_BS = 0 if layout.skip_BT is None else layout.start_BT
    block_of_key_BS = (index_1S - start_of_key_BS) // blocks.select_block
    batch, num_kv_heads = picks_BKTn.shape[:2]
    # One place more than there are blocks takes the picks of nothing.
    chosen_BKTJ = torch.zeros(*picks_BKTn.shape[:3], layout.num_blocks + 1, dtype=torch.bool, device=q_BNTH.device)
    chosen_BKTJ.scatter_(-1, picks_BKTn.where(picks_BKTn >= 0, layout.num_blocks), True)
    pieces = []
    for first in range(0, new, PIECE_TOKENS):
        last = min(new, first + PIECE_TOKENS)
        seen = num_keys - new + last
        here_BT1, start_BT1 = (x[:, first:last, None] for x in (layout.here_BT, layout.start_BT))
        own_BTS = (index_1S[:, None, :seen] <= here_BT1) & (index_1S[:, None, :seen] >= start_BT1)
        index = block_of_key_BS[:, None, None, :seen].expand(batch, num_kv_heads, last - first, -1)
        visible_BKTS = chosen_BKTJ[:, :, first:last].gather(-1, index) & own_BTS[:, None]
        pieces.append(_masked(q_BNTH[:, :, first:last], k_BKSH[:, :, :seen], v_BKSH[:, :, :seen], visible_BKTS, scale))
    return torch.cat(pieces, 2)


def sliding_branch(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, window: int, scale: float, sequence_ids_BT: Tensor | None
) -> Tensor:
    """Return the sliding branch, BNTH, block by block: `window` queries against the keys of their block and the last.

    The T queries are those of the last T keys.
    """
    batch, _, new, _ = q_BNTH.shape
    num_blocks = -(-new // window)
    back, after = window - (k_BKSH.shape[2] - new), num_blocks * window - new
    # Keys from one window before the first query to the end of the last block; what does not exist is cut or zero.
    k_BKSH, v_BKSH = (F.pad(x, (0, 0, back, after)) for x in (k_BKSH, v_BKSH))
    q_BNTH = F.pad(q_BNTH, (0, 0, 0, after))
    q_XNTH = q_BNTH.unflatten(2, (num_blocks, window)).transpose(1, 2).flatten(0, 1)  # X: rows × blocks
    k_XKSH, v_XKSH = (_two_windows(x, window, 2).permute(0, 2, 1, 4, 3).flatten(0, 1) for x in (k_BKSH, v_BKSH))
    query_T1 = torch.arange(window, 2 * window, device=q_BNTH.device)[:, None]
    key_1S = torch.arange(2 * window, device=q_BNTH.device)[None]
    visible_XTS = ((key_1S <= query_T1) & (key_1S > query_T1 - window))[None]
    if back > 0:
        first_key_X11 = back - window * torch.arange(num_blocks, device=q_BNTH.device)[:, None, None]
        visible_XTS = (visible_XTS & (key_1S >= first_key_X11)).repeat(batch, 1, 1)
    if sequence_ids_BT is not None:
        ids_BS = F.pad(sequence_ids_BT, (back, after))
        query_ids = ids_BS[:, window:].reshape(-1, window, 1)
        key_ids = _two_windows(ids_BS, window, 1).flatten(0, 1)[:, None]
        visible_XTS = visible_XTS & (query_ids == key_ids)
    mixed_XNTH = _masked(q_XNTH, k_XKSH, v_XKSH, visible_XTS[:, None], scale)
    mixed_BNTH: Tensor = mixed_XNTH.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
    return mixed_BNTH[:, :, :new]


def one_token_branch(q_BNH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, visible_BKS: Tensor, scale: float) -> Tensor:
    """Return the attention BNH of one query to the visible ones of a few keys."""
    batch, num_kv_heads, _, head_dim = k_BKSH.shape
    q_BKGH = q_BNH.view(batch, num_kv_heads, -1, head_dim)
    scores_BKGS = (q_BKGH * scale) @ k_BKSH.transpose(2, 3)
    scores_BKGS = scores_BKGS.masked_fill(~visible_BKS[:, :, None], -torch.inf)
    weights_BKGS = scores_BKGS.softmax(-1, dtype=torch.promote_types(scores_BKGS.dtype, torch.float32))
    mixed_BKGH: Tensor = weights_BKGS.to(v_BKSH.dtype) @ v_BKSH
    return mixed_BKGH.flatten(1, 2)


def _two_windows(x: Tensor, window: int, axis: int) -> Tensor:
    """Return each window's tokens behind those of the window before, along a new last axis."""
    return x.unfold(axis, 2 * window, window)


def _masked(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, visible: Tensor, scale: float) -> Tensor:
    """Return attention through torch's fused kernels; `visible` fits BNTS, or BKTS where it differs among heads."""
    (batch, num_heads, _, _), num_kv_heads = q_BNTH.shape, k_BKSH.shape[1]
    if visible.shape[1] != 1:  # heads become rows, so that a group of query heads shares one mask
        q_BNTH = q_BNTH.unflatten(1, (num_kv_heads, -1)).flatten(0, 1)
        k_BKSH, v_BKSH, visible = (x.flatten(0, 1)[:, None] for x in (k_BKSH, v_BKSH, visible))
    group = q_BNTH.shape[1] // k_BKSH.shape[1]
    if q_BNTH.device.type == "cuda":
        if group > 1:  # the kernels that take a mask share no keys among heads
            k_BKSH, v_BKSH = k_BKSH.repeat_interleave(group, 1), v_BKSH.repeat_interleave(group, 1)
        mixed = F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=visible, scale=scale)
    else:
        mask = torch.zeros((), dtype=q_BNTH.dtype, device=q_BNTH.device).where(visible, -torch.inf)
        k_BKSH, v_BKSH = k_BKSH.contiguous(), v_BKSH.contiguous()
        mixed = F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=mask, scale=scale, enable_gqa=True)
    return mixed.reshape(batch, num_heads, *mixed.shape[2:])
