"""Attention over packed rows as flash attention takes it: sequences one after another, and where each one begins.

No pair of tokens of two sequences is computed. With a mask over whole rows all of them would be, and the fastest
kernels refuse one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.models.linear import is_low_precision
from efficientllm.models.position._contract import Positions

#: What the kernel is made for.
_WIDEST_HEAD, _WIDTH_STEP = 256, 8


def serves(q_BNTH: Tensor, positions: Positions) -> bool:
    """Whether the kernel is here, and how many sequences there are at most is known without asking the device."""
    width = q_BNTH.shape[-1]
    fits = width <= _WIDEST_HEAD and width % _WIDTH_STEP == 0 and is_low_precision(q_BNTH.dtype)
    return fits and positions.most_sequences > 0 and q_BNTH.device.type == "cuda"


def packed_attention(
    q_BNTH: Tensor,
    k_BKTH: Tensor,
    v_BKTH: Tensor,
    positions: Positions,
    sequence_ids_BT: Tensor,
    *,
    scale: float,
    window: int,
) -> Tensor:
    """Return causal attention BNTH inside each run of equal ids."""
    batch, _, num_tokens, _ = q_BNTH.shape
    most = positions.most_sequences
    bounds = positions.once("sequence bounds", lambda: sequence_bounds(sequence_ids_BT, batch, most))
    q_MNH, k_MKH, v_MKH = (x.transpose(1, 2).flatten(0, 1) for x in (q_BNTH, k_BKTH, v_BKTH))
    back = {"window_size_left": window - 1, "window_size_right": 0} if window else {}
    lengths = bounds, bounds, num_tokens, num_tokens
    kernel = torch.ops.aten._flash_attention_forward
    out_MNH: Tensor = kernel(q_MNH, k_MKH, v_MKH, *lengths, 0.0, True, False, scale=scale, **back)[0]
    return out_MNH.view(batch, num_tokens, *out_MNH.shape[1:]).transpose(1, 2)


def sequence_bounds(sequence_ids_BT: Tensor, batch: int, most: int) -> Tensor:
    """Return where each run of equal ids begins once all rows lie in one, and where the last one ends.

    Args:
        sequence_ids_BT: ids; one row may serve all.
        batch: number of rows.
        most: at least the number of runs of all rows; further ones are empty, so that shapes stay the same.

    Returns:
        int32, most + 1 numbers.
    """
    ids_BT = sequence_ids_BT.expand(batch, -1)
    begins_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    begins_BT[:, 1:] = ids_BT[:, 1:] != ids_BT[:, :-1]
    run_M = begins_BT.flatten().cumsum(0) - 1
    bounds: Tensor = torch.searchsorted(run_M, torch.arange(most + 1, device=run_M.device), out_int32=True)
    return bounds
