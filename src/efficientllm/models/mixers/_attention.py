"""Softmax attention, three times the same: written out, fast over many tokens, and fast over one new token."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from efficientllm.models.linear import is_low_precision
from efficientllm.models.mixers import _packed_attention
from efficientllm.models.position._contract import Positions

#: Cached tokens that one block of the value product takes on CUDA; with one product over all of them most of the
#: device would wait (flash-decoding).
_SPLIT_TOKENS = 256

#: cuDNN's attention takes about half the time of torch's flash attention on Hopper, and more on other devices.
_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def reference_attention(
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSW: Tensor,
    positions: Positions,
    *,
    scale: float,
    window: int = 0,
    sequence_ids_BT: Tensor | None = None,
) -> Tensor:
    """Return causal attention BNTW with every score written out: what the fast forms are held to."""
    group = q_BNTH.shape[1] // k_BKSH.shape[1]
    k_BNSH, v_BNSW = k_BKSH.repeat_interleave(group, 1), v_BKSW.repeat_interleave(group, 1)
    scores_BNTS = (q_BNTH @ k_BNSH.transpose(2, 3)) * scale
    bias = positions.score_bias(positions.index_BT)
    if bias is not None:
        scores_BNTS = scores_BNTS + bias
    hidden = ~_visible(positions, k_BKSH.shape[2], window, sequence_ids_BT)
    weights_BNTS = scores_BNTS.masked_fill(hidden, -torch.inf).softmax(-1, dtype=torch.float32)
    return weights_BNTS.to(v_BNSW.dtype) @ v_BNSW


def attention(
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSW: Tensor,
    positions: Positions,
    *,
    scale: float,
    window: int = 0,
    sequence_ids_BT: Tensor | None = None,
) -> Tensor:
    """Return causal attention BNTW of T new tokens, the last of S tokens, through torch's fused kernels."""
    num_new, num_seen = q_BNTH.shape[2], k_BKSH.shape[2]
    width = v_BKSW.shape[-1]
    on_cuda = q_BNTH.device.type == "cuda"
    if width != k_BKSH.shape[-1]:  # flash attention wants one width, and without it every score is written out
        common = max(width, k_BKSH.shape[-1])
        q_BNTH, k_BKSH, v_BKSW = (F.pad(x, (0, common - x.shape[-1])) for x in (q_BNTH, k_BKSH, v_BKSW))
    if (
        sequence_ids_BT is not None
        and not positions.encoding.biases_scores
        and _packed_attention.serves(q_BNTH, positions)
    ):
        apart = q_BNTH, k_BKSH, v_BKSW, positions, sequence_ids_BT
        return _packed_attention.packed_attention(*apart, scale=scale, window=window)[..., :width]
    plain = sequence_ids_BT is None and not 0 < window < num_seen and not positions.encoding.biases_scores
    mask: Tensor | None = None
    if plain and num_new < num_seen and on_cuda:
        mask = causal_lower_right(num_new, num_seen)
    elif not plain or num_new < num_seen:
        key = ("mask", num_seen, window)
        mask = positions.once(key, lambda: _mask(positions, num_seen, window, sequence_ids_BT, q_BNTH.dtype))
    grouped = q_BNTH.shape[1] != k_BKSH.shape[1]
    if on_cuda and grouped and not (plain and is_low_precision(q_BNTH.dtype)):
        # Only the flash kernel shares keys among query heads there; the others would write out every score.
        group = q_BNTH.shape[1] // k_BKSH.shape[1]
        k_BKSH, v_BKSW, grouped = k_BKSH.repeat_interleave(group, 1), v_BKSW.repeat_interleave(group, 1), False
    if not on_cuda:  # the processor's kernel takes four times as long over tokens that lie along the last axis
        k_BKSH, v_BKSW = _rows_contiguous(k_BKSH), _rows_contiguous(v_BKSW)
    with _preferred_kernels(q_BNTH):
        out_BNTW = F.scaled_dot_product_attention(
            q_BNTH, k_BKSH, v_BKSW, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
    return out_BNTW[..., :width]


def one_token_attention(
    q_BNH: Tensor,
    k_BKSH: Tensor,
    v_BKSW: Tensor,
    positions: Positions,
    *,
    scale: float,
    window: int = 0,
    fixed: bool,
) -> Tensor:
    """Return attention BNW of one new token to what is in the cache, each key and value read once.

    Args:
        q_BNH: queries of the new token.
        k_BKSH: view of the cached keys.
        v_BKSW: view of the cached values.
        positions: of the new token.
        scale: factor of the scores.
        window: how many tokens back are seen; 0 = all.
        fixed: whether the views hold the whole cache, of which what lies beyond the token's position is masked.
    """
    batch, num_heads, _ = q_BNH.shape
    if not fixed and 0 < window < k_BKSH.shape[2]:
        k_BKSH, v_BKSW = k_BKSH[:, :, -window:], v_BKSW[:, :, -window:]
    k_XSH, v_XSW = k_BKSH.flatten(0, 1), v_BKSW.flatten(0, 1)  # X: rows × key/value heads
    q_XGH = (q_BNH * scale).view(k_XSH.shape[0], -1, q_BNH.shape[-1])
    scores_XGS = _scores(q_XGH, k_XSH)
    bias = _one_token_bias(positions, k_BKSH.shape[2], window, fixed)
    if bias is not None:
        alike = bias.shape[:2] == (1, 1)
        scores_XGS = scores_XGS + bias[0] if alike else _add_for_each_head(scores_XGS, bias, batch)
    if is_low_precision(v_XSW.dtype):
        weights_XGS = scores_XGS.softmax(-1, dtype=torch.float32).to(v_XSW.dtype)
    else:
        weights_XGS = scores_XGS.softmax(-1)
    return _weighted_values(weights_XGS, v_XSW, fixed).view(batch, num_heads, -1)


def _preferred_kernels(q_BNTH: Tensor) -> AbstractContextManager[None]:
    """Return a region in which torch asks cuDNN first where that is the fastest: on Hopper, in low precision."""
    if q_BNTH.device.type == "cuda" and is_low_precision(q_BNTH.dtype) and _is_hopper(q_BNTH.device.index or 0):
        return sdpa_kernel(_CUDNN_FIRST, set_priority=True)
    return nullcontext()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_hopper(index: int) -> bool:
    return torch.cuda.get_device_capability(index)[0] == 9


def _add_for_each_head(scores_XGS: Tensor, bias_BN1S: Tensor, batch: int) -> Tensor:
    """Return the scores with each head's bias, which is not repeated first where all rows share it."""
    scores_BKGS = scores_XGS.unflatten(0, (batch, -1))
    groups = scores_BKGS.shape[1:3]
    bias_BNS = bias_BN1S[:, :, 0].expand(-1, groups.numel(), -1)
    if torch.compiler.is_compiling():
        # It repeats nothing anyway, and would take the form below for another model's attention and rewrite it wrongly.
        return torch.add(scores_XGS, bias_BNS.expand(batch, -1, -1).reshape(scores_XGS.shape))
    return torch.add(scores_BKGS, bias_BNS.unflatten(1, groups)).flatten(0, 1)


def _rows_contiguous(x_BKSW: Tensor) -> Tensor:
    return x_BKSW if x_BKSW.stride(-1) == 1 else x_BKSW.contiguous()


def _scores(q_XGH: Tensor, k_XSH: Tensor) -> Tensor:
    """Return the products of queries and keys; on a processor their order decides by how much memory is the limit."""
    k_XHS = k_XSH.transpose(1, 2)
    if q_XGH.device.type == "cpu":
        if is_low_precision(q_XGH.dtype):
            return torch.bmm(k_XSH, q_XGH.transpose(1, 2)).transpose(1, 2).contiguous()
        if q_XGH.shape[1] == 2:  # two matrix-vector products are faster than one product with two rows
            return torch.cat((torch.bmm(q_XGH[:, :1], k_XHS), torch.bmm(q_XGH[:, 1:], k_XHS)), 1)
    return torch.bmm(q_XGH, k_XHS)


def _weighted_values(weights_XGS: Tensor, v_XSW: Tensor, fixed: bool) -> Tensor:
    rows, group, seen = weights_XGS.shape
    if not fixed or seen % _SPLIT_TOKENS or seen == _SPLIT_TOKENS:
        return torch.bmm(weights_XGS, v_XSW)
    num_splits = seen // _SPLIT_TOKENS
    weights = weights_XGS.view(rows, group, num_splits, -1).transpose(1, 2).flatten(0, 1)
    parts = torch.bmm(weights, v_XSW.unflatten(1, (num_splits, -1)).flatten(0, 1))
    return parts.view(rows, num_splits, group, -1).sum(1, dtype=torch.float32).to(v_XSW.dtype)


def _one_token_bias(positions: Positions, seen: int, window: int, fixed: bool) -> Tensor | None:
    """Return what is added to the scores of one token, broadcastable to BN1S, or None."""
    if not fixed and not positions.encoding.biases_scores:
        return None

    def make() -> Tensor | None:
        index_BT = positions.index_BT
        keys_BS = torch.arange(seen, device=index_BT.device)[None]
        if not fixed:
            keys_BS = keys_BS + index_BT - (seen - 1)
        bias = positions.score_bias(keys_BS)
        if fixed:
            visible = keys_BS <= index_BT
            if window:
                visible = visible & (keys_BS > index_BT - window)
            hidden = torch.zeros(visible.shape, device=index_BT.device).masked_fill(~visible, -torch.inf)
            bias = hidden[:, None, None] if bias is None else bias + hidden[:, None, None]
        return bias

    return positions.once(("one token", seen, window), make)


def _mask(positions: Positions, seen: int, window: int, sequence_ids_BT: Tensor | None, dtype: torch.dtype) -> Tensor:
    visible = _visible(positions, seen, window, sequence_ids_BT)
    past = seen - positions.index_BT.shape[1]
    keys_BS = positions.index_BT if not past else torch.arange(seen, device=visible.device)[None]
    bias = positions.score_bias(keys_BS)
    if bias is None:
        if visible.device.type == "cuda":
            return visible
        bias = torch.zeros((), device=visible.device)  # the processor's kernel would make numbers of it in each layer
    return torch.where(visible, bias.to(dtype), -torch.inf)


def _visible(positions: Positions, seen: int, window: int, sequence_ids_BT: Tensor | None) -> Tensor:
    """Return which of S tokens each of the T last ones may see: boolean, broadcastable to BNTS."""
    new, device = positions.index_BT.shape[1], positions.index_BT.device
    query_T1 = torch.arange(seen - new, seen, device=device)[:, None]
    key_1S = torch.arange(seen, device=device)[None]
    visible = key_1S <= query_T1
    if window:
        visible = visible & (key_1S > query_T1 - window)
    if sequence_ids_BT is not None:
        same = sequence_ids_BT[:, None, :, None] == sequence_ids_BT[:, None, None, :]
        visible = visible & same
    return visible
