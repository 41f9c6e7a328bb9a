"""Recurrences with a matrix as state, over many tokens at once: exact, in chunks, in plain torch.

A recurrence S ← decay ∘ S + (what a token writes) is linear in the state that a chunk of L tokens begins with. All that
happens inside of the chunks is therefore worked out for all of them at once, as products of matrices; then the states
are carried from chunk to chunk, which takes one small product each; then every token reads its chunk's first state.

Sums, decays and triangular solves are float32 whatever comes in: they lose too much in less. On CUDA the large products
take factors of the type that came in, which devices multiply many times faster; fla's kernels do the same.

Packed rows (`runs_BT`, see `_runs.py`) are cut by masks: tokens of different runs meet in no product, and only tokens
of the run that ends a chunk write to what the chunk hands on.

Letters as in `_contract.py`: C chunks of L tokens; a state is BNHW, keys are H wide, values W.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.linear import is_low_precision
from efficientllm.models.mixers._between_chunks import carried, solved

#: Tokens of a chunk at most. The vector decay of rwkv7 is taken relative to the middle of its chunk, so its factors
#: stay below exp(0.61 * 64 / 2) = 3e8, far from float32's end.
CHUNK_TOKENS = 64


class _Cut(NamedTuple):
    """A sequence cut into chunks: how, and which tokens meet in packed rows (None: all).

    Attributes:
        num_tokens, num_chunks, chunk_tokens: T, C and L; C * L >= T.
        factors: the type of what is multiplied in large products.
        upto_LL, before_LL: where a pair (i, j) has j <= i, and j < i; in packed rows of one run, then BC1LL.
        enters_BC1L: whether the token's run began before its chunk.
        leaves_BC1L: whether the token's run goes on at the chunk's end.
        goes_on_BC: whether one run fills the chunk and began before it.
    """

    num_tokens: int
    num_chunks: int
    chunk_tokens: int
    factors: torch.dtype
    upto_LL: Tensor  # noqa: N815 - a shape suffix
    before_LL: Tensor  # noqa: N815
    enters_BC1L: Tensor | None = None  # noqa: N815
    leaves_BC1L: Tensor | None = None  # noqa: N815
    goes_on_BC: Tensor | None = None  # noqa: N815

    def split(self, x_BT: Tensor) -> Tensor:
        """Return B, T, more… as float32 B, C, L, more…; the last chunk is filled up with zeros, which do nothing."""
        missing = self.num_chunks * self.chunk_tokens - self.num_tokens
        x_BT = x_BT.float()
        if missing:
            x_BT = F.pad(x_BT, (0, 0) * (x_BT.dim() - 2) + (0, missing))
        return x_BT.view(x_BT.shape[0], self.num_chunks, self.chunk_tokens, *x_BT.shape[2:])

    def heads(self, x_BTN: Tensor) -> Tensor:
        """Return B, T, N, more… as float32 B, C, N, L, more…."""
        return self.split(x_BTN).transpose(2, 3)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the float32 product of two stacks of matrices."""
        return a @ b if self.factors == torch.float32 else (a.to(self.factors) @ b.to(self.factors)).float()

    def join(self, x_BCNLW: Tensor) -> Tensor:
        """Return B, C, N, L, W as B, T, N, W."""
        return x_BCNLW.transpose(2, 3).flatten(1, 2)[:, : self.num_tokens]


def _cut(x_BT: Tensor, runs_BT: Tensor | None) -> _Cut:
    """Return how the tokens of x fall into chunks of nearly equal length."""
    num_tokens, device = x_BT.shape[1], x_BT.device
    num_chunks = -(-num_tokens // CHUNK_TOKENS)
    length = -(-num_tokens // num_chunks)
    upto_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    before_LL = upto_LL.tril(-1)
    factors = x_BT.dtype if device.type == "cuda" and is_low_precision(x_BT.dtype) else torch.float32
    plain = _Cut(num_tokens, num_chunks, length, factors, upto_LL, before_LL)
    if runs_BT is None:
        return plain
    runs_BC1L = F.pad(runs_BT, (0, num_chunks * length - num_tokens), value=-1).unflatten(1, (num_chunks, 1, length))
    last_BC11 = runs_BC1L[..., -1:]
    first_B111 = runs_BC1L[:, :1, :, :1]
    previous_BC11 = torch.cat((first_B111, last_BC11[:, :-1]), 1)
    same_BC1LL = runs_BC1L[..., :, None] == runs_BC1L[..., None, :]
    return plain._replace(
        upto_LL=same_BC1LL & upto_LL,
        before_LL=same_BC1LL & before_LL,
        enters_BC1L=runs_BC1L == previous_BC11,
        leaves_BC1L=runs_BC1L == last_BC11,
        goes_on_BC=(last_BC11 == previous_BC11)[..., 0, 0],
    )


def state_space(
    q_BTH: Tensor, k_BTH: Tensor, v_BTNW: Tensor, g_BTN: Tensor, start_BHNW: Tensor | None, runs_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return o_t = q_t S_t of S_t = exp(g_t) S_{t-1} + k_t v_t, BTNW, and the last state, BHNW.

    All heads share queries and keys, so their values lie side by side in each product, and so does the state.
    """
    c = _cut(q_BTH, runs_BT)
    q_BCLH, k_BCLH, v_BCLNW = c.split(q_BTH), c.split(k_BTH), c.split(v_BTNW)
    decays = _ScalarDecays.of(c.heads(g_BTN), c)
    weights_BCNLL = c.product(q_BCLH, k_BCLH.mT)[:, :, None] * decays.upto_BCNLL
    local_BCLNW = c.product(weights_BCNLL, v_BCLNW.transpose(2, 3)).transpose(2, 3)
    kept_BCLNW = v_BCLNW * decays.leaving_BCNL.mT[..., None]
    write_BCHNW = c.product(k_BCLH.mT, kept_BCLNW.flatten(3)).unflatten(3, v_BCLNW.shape[3:])
    before_BCHNW, last_BHNW = carried(decays.whole_BCN[:, :, None, :, None], write_BCHNW, start_BHNW)
    read_BCLNW = c.product(q_BCLH, before_BCHNW.flatten(3)).unflatten(3, v_BCLNW.shape[3:])
    out_BCLNW = torch.addcmul(local_BCLNW, read_BCLNW, decays.entering_BCNL.mT[..., None])
    return out_BCLNW.flatten(1, 2)[:, : c.num_tokens], last_BHNW


def gated_delta(
    q_BTNH: Tensor,
    k_BTNH: Tensor,
    v_BTNW: Tensor,
    g_BTN: Tensor,
    beta_BTN: Tensor,
    start_BNHW: Tensor | None,
    runs_BT: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return o_t = q_t S_t of S_t = exp(g_t) (I - beta_t k_t k_tᵀ) S_{t-1} + beta_t k_t v_tᵀ, BTNW, and the last state.

    What the tokens of a chunk really write depends on each other: a unit triangular system, solved for all at once.
    """
    c = _cut(q_BTNH, runs_BT)
    q_BCNLH, k_BCNLH, v_BCNLW = c.heads(q_BTNH), c.heads(k_BTNH), c.heads(v_BTNW)
    beta_BCNL1 = c.heads(beta_BTN)[..., None]
    decays = _ScalarDecays.of(c.heads(g_BTN), c)
    kb_BCNLH = k_BCNLH * beta_BCNL1
    system_BCNLL = (kb_BCNLH @ k_BCNLH.mT * decays.upto_BCNLL).masked_fill(~c.before_LL, 0.0)
    entering_BCNL1 = decays.entering_BCNL[..., None]
    written = solved(c.product, system_BCNLL, torch.cat((v_BCNLW * beta_BCNL1, -kb_BCNLH * entering_BCNL1), -1))
    return _read_and_carry(
        c,
        q_BCNLH * entering_BCNL1,
        c.product(q_BCNLH, k_BCNLH.mT) * decays.upto_BCNLL,
        k_BCNLH * decays.leaving_BCNL[..., None],
        written,
        decays.whole_BCN[..., None, None],
        start_BNHW,
    )


def vector_delta(
    q_BTNH: Tensor,
    g_BTNH: Tensor,
    k_BTNH: Tensor,
    v_BTNW: Tensor,
    a_BTNH: Tensor,
    b_BTNH: Tensor,
    start_BNHW: Tensor | None,
    runs_BT: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return o_t = q_t S_t of S_t = (diag(exp(g_t)) + b_t a_tᵀ) S_{t-1} + k_t v_tᵀ, BTNW, and the last state.

    `g_BTNH` must lie in (-0.61, 0), as rwkv7's does: see `CHUNK_TOKENS`.
    """
    c = _cut(q_BTNH, runs_BT)
    q_BCNLH, g_BCNLH, k_BCNLH, v_BCNLW = (c.heads(x) for x in (q_BTNH, g_BTNH, k_BTNH, v_BTNW))
    a_BCNLH, b_BCNLH = c.heads(a_BTNH), c.heads(b_BTNH)
    sum_BCNLH = g_BCNLH.cumsum(3)
    last_BCN1H = sum_BCNLH[..., -1:, :]
    middle_BCN1H = sum_BCNLH[..., c.chunk_tokens // 2, None, :]
    since_BCNLH, until_BCNLH = (sum_BCNLH - middle_BCN1H).exp(), (middle_BCN1H - sum_BCNLH).exp()
    a_since_BCNLH = a_BCNLH * (sum_BCNLH - g_BCNLH - middle_BCN1H).exp()  # a reads the state before the token's decay
    writers = torch.cat((k_BCNLH * until_BCNLH, b_BCNLH * until_BCNLH), 3)
    q_since_BCNLH = q_BCNLH * since_BCNLH
    # float16 ends before these factors do
    of_q = q_since_BCNLH @ writers.mT if c.factors == torch.float16 else c.product(q_since_BCNLH, writers.mT)
    of_a = a_since_BCNLH @ writers.mT
    qk_BCNLL, qb_BCNLL = (x.masked_fill(~c.upto_LL, 0.0) for x in of_q.split(c.chunk_tokens, 4))
    ak_BCNLL, ab_BCNLL = (x.masked_fill(~c.before_LL, 0.0) for x in of_a.split(c.chunk_tokens, 4))
    entering_BCNLH, before_BCNLH = sum_BCNLH.exp(), (sum_BCNLH - g_BCNLH).exp()
    leaving_BCNLH, whole_BCNH1 = (last_BCN1H - sum_BCNLH).exp(), last_BCN1H.exp().mT
    if c.enters_BC1L is not None and c.leaves_BC1L is not None and c.goes_on_BC is not None:
        entering_BCNLH, before_BCNLH = (x * c.enters_BC1L[..., None] for x in (entering_BCNLH, before_BCNLH))
        leaving_BCNLH = leaving_BCNLH * c.leaves_BC1L[..., None]
        whole_BCNH1 = whole_BCNH1 * c.goes_on_BC[:, :, None, None, None]
    found = solved(c.product, -ab_BCNLL, torch.cat((c.product(ak_BCNLL, v_BCNLW), a_BCNLH * before_BCNLH), -1))
    return _read_and_carry(
        c,
        q_BCNLH * entering_BCNLH,
        qb_BCNLL,
        b_BCNLH * leaving_BCNLH,
        found,
        whole_BCNH1,
        start_BNHW,
        own_BCNLW=c.product(qk_BCNLL, v_BCNLW),
        write_BCNHW=c.product((k_BCNLH * leaving_BCNLH).mT, v_BCNLW),
    )


class _ScalarDecays(NamedTuple):
    """What one decay a head and token makes of a chunk.

    Attributes:
        upto_BCNLL: from the write of token j to the read of token i, 0 where they do not meet.
        entering_BCNL: from the chunk's first state to the read of token i.
        leaving_BCNL: from the write of token j to the chunk's end.
        whole_BCN: from the chunk's first state to its end.
    """

    upto_BCNLL: Tensor  # noqa: N815
    entering_BCNL: Tensor  # noqa: N815
    leaving_BCNL: Tensor  # noqa: N815
    whole_BCN: Tensor  # noqa: N815

    @classmethod
    def of(cls, g_BCNL: Tensor, c: _Cut) -> _ScalarDecays:
        """Work them out; sums are double, for small differences of large sums must keep their digits."""
        sum_BCNL = g_BCNL.double().cumsum(-1)
        last_BCN1 = sum_BCNL[..., -1:]
        between_BCNLL = (sum_BCNL[..., :, None] - sum_BCNL[..., None, :]).float()
        entering, leaving = sum_BCNL.float().exp(), (last_BCN1 - sum_BCNL).float().exp()
        whole = last_BCN1[..., 0].float().exp()
        if c.enters_BC1L is not None and c.leaves_BC1L is not None and c.goes_on_BC is not None:
            entering, leaving = entering * c.enters_BC1L, leaving * c.leaves_BC1L
            whole = whole * c.goes_on_BC[..., None]
        return cls(between_BCNLL.masked_fill(~c.upto_LL, -torch.inf).exp(), entering, leaving, whole)


def _read_and_carry(
    c: _Cut,
    read_BCNLH: Tensor,
    of_new_BCNLL: Tensor,
    keys_BCNLH: Tensor,
    new_BCNLX: Tensor,
    decay: Tensor,
    start_BNHW: Tensor | None,
    own_BCNLW: Tensor | None = None,
    write_BCNHW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what the tokens read, BTNW, and the last state, where each chunk writes new values that depend on it.

    Args:
        c: the chunks.
        read_BCNLH: what a token takes from its chunk's first state S.
        of_new_BCNLL: what it takes from the new values of its chunk's tokens.
        keys_BCNLH: where the new values are written, as far as they last to the chunk's end.
        new_BCNLX: the new values, side by side: the part without S (W wide), and the matrix that S is taken by (H).
        decay: of S over the chunk, broadcastable to BCNHW.
        start_BNHW: state before the first chunk, or None for zeros.
        own_BCNLW: what a token reads besides.
        write_BCNHW: what a chunk writes besides.
    """
    width = new_BCNLX.shape[-1] - read_BCNLH.shape[-1]
    read_new, write_new = c.product(of_new_BCNLL, new_BCNLX), c.product(keys_BCNLH.mT, new_BCNLX)
    write, local = write_new[..., :width], read_new[..., :width]
    if write_BCNHW is not None and own_BCNLW is not None:
        write, local = write + write_BCNHW, local + own_BCNLW
    before_BCNHW, last_BNHW = carried(decay, write, start_BNHW, write_new[..., width:], c.factors)
    return c.join(local + c.product(read_BCNLH + read_new[..., width:], before_BCNHW)), last_BNHW
