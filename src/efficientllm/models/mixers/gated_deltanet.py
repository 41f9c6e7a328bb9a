"""Gated DeltaNet: a token writes what its key does not yet recall, after the whole state has faded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Linear
from efficientllm.models.mixers._chunked import gated_delta
from efficientllm.models.mixers._chunked_costs import chunk_gradients_bytes, gated_delta_bytes
from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.mixers._decay import HeadDecay
from efficientllm.models.mixers._kernels import Kernel
from efficientllm.models.mixers._recurrent import Call, Mixed, RecurrentMixer, Tensors, count, in_parts, refuse
from efficientllm.models.mixers._runs import Runs
from efficientllm.models.mixers._short_conv import ShortConv
from efficientllm.models.norm import RMSNorm
from efficientllm.models.position._contract import Position
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card

#: It has no queries and keys of attention that a rotary encoding could turn.
SLOTS = {"position": "none"}

#: Added to the squared length of queries and keys before they are divided by it.
_LENGTH_EPS = 1e-6


class GatedDeltaNet(RecurrentMixer):
    """S_t = α_t (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ, read by q_t; α_t and β_t are numbers of each head.

        x ─┬─ q, k, v ─ short convolution ─ length 1 of q, k ─ recurrence ─ RMSNorm ─┐
           ├─ step of α, and β, of each head ──────────────────────┘                 × ─ out
           └─ gate ─ SiLU ───────────────────────────────────────────────────────────┘

    Keys are .75 of the residual stream's width in all, values twice as wide, as published: about 6 D² parameters.
    Heads have keys of 128, or the largest power of two up to a quarter of the width (the published layer has 256, which
    divides none of our widths well); their number is rounded, so at width 896 it is 5 heads and 4 % fewer parameters.
    `num_heads`, `num_kv_heads` and `head_dim` of the shape play no part.
    """

    kernel = Kernel("fla.ops.gated_delta_rule", "chunk_gated_delta_rule", gated_backward=True)

    def __init__(
        self,
        shape: Shape,
        num_heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        conv_taps: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        widest = 2 ** max(0, (shape.width // 4).bit_length() - 1)
        self.key_dim = count("gated_deltanet", "key_dim", key_dim, min(128, widest))
        heads = max(1, round(0.75 * shape.width / self.key_dim))
        self.num_heads = count("gated_deltanet", "num_heads", num_heads, heads)
        self.value_dim = count("gated_deltanet", "value_dim", value_dim, 2 * self.key_dim)
        taps = count("gated_deltanet", "conv_taps", conv_taps, 4, least=2)
        keys, values = self.num_heads * self.key_dim, self.num_heads * self.value_dim
        self.channels = (keys, keys, values)
        self.parts = (sum(self.channels), values, self.num_heads, self.num_heads)
        self.proj = Linear(shape.width, sum(self.parts))
        self.conv = ShortConv(sum(self.channels), taps, bias=False)
        self.decay = HeadDecay(self.num_heads)
        self.norm = RMSNorm(self.value_dim, shape.norm_eps)
        self.out = Linear(values, shape.width, writes_residual=True)
        self.recent_shape = (taps - 1, sum(self.channels))
        self.memory_shape = (self.num_heads, self.key_dim, self.value_dim)
        layers = self.proj.flops_per_token() + self.conv.flops_per_token() + self.out.flops_per_token()
        self.token_flops = layers + 3 * 2.0 * keys * self.value_dim  # recall by the key, write, read by the query

    def project(self, x_BTD: Tensor) -> Tensors:
        """Return what the convolution takes, gates, steps, and logits of β."""
        return in_parts(self.proj, x_BTD, self.parts)

    def inputs(
        self, parts: Tensors, before: Tensor | None, runs: Runs | None, *, plain: bool
    ) -> tuple[Tensors, Tensors]:
        """Return queries, keys, values, log decays and β; and the gates."""
        together, gate_BTX, step_BTN, beta_BTN = parts
        mixed = self.conv.reference(together, runs) if plain else self.conv(together, before, runs)
        q_BTNH, k_BTNH, v_BTNW = (x.unflatten(-1, (self.num_heads, -1)) for x in mixed.split(self.channels, -1))
        q_BTNH, k_BTNH = _of_length(q_BTNH, self.key_dim**-0.5), _of_length(k_BTNH, 1.0)
        return (q_BTNH, k_BTNH, v_BTNW, self.decay(step_BTN)[1], beta_BTN.sigmoid()), (gate_BTX,)

    def recurrence(self, taken: Tensors, keep_BT: Tensor) -> Tensor:
        """Return what the tokens read, step by step."""
        q_BTNH, k_BTNH, v_BTNW, g_BTN, beta_BTN = taken
        kept_BTN = g_BTN.exp() * keep_BT[..., None]
        state_BNHW, read = v_BTNW.new_zeros(*k_BTNH[:, 0].shape, v_BTNW.shape[-1]), []
        for t in range(q_BTNH.shape[1]):
            state_BNHW = kept_BTN[:, t, :, None, None] * state_BNHW
            recalled_BN1W = k_BTNH[:, t, :, None, :] @ state_BNHW
            new_BN1W = beta_BTN[:, t, :, None, None] * (v_BTNW[:, t, :, None, :] - recalled_BN1W)
            state_BNHW = state_BNHW + k_BTNH[:, t, :, :, None] @ new_BN1W
            read.append((q_BTNH[:, t, :, None, :] @ state_BNHW)[:, :, 0])
        return torch.stack(read, 1)

    def outside_bytes(self, ahead: ForwardPass) -> float:
        """Return what went in, the projections, what the convolution gives, lengths, and what is normed and gated."""
        keys, _, values = self.channels
        kept = ahead.numbers(self.shape.width + sum(self.parts)) + self.conv.saved_bytes(ahead)
        if ahead.compiled:
            return kept + ahead.numbers(sum(self.channels) + values) + ahead.floats(values + 3 * self.num_heads)
        normed = ahead.numbers(3 * values) + ahead.norm_inputs(values, ahead.dtype_bytes)
        return kept + ahead.floats(2 * keys + 7 * self.num_heads) + normed

    def taken_bytes(self, ahead: ForwardPass) -> float:
        """Return queries and keys at their length, decays, and what the convolution gives: values are a view of it."""
        taken = 2 * self.channels[0] + sum(self.channels)
        return 0.0 if ahead.compiled else ahead.numbers(taken) + ahead.floats(self.num_heads)

    def chunk_bytes(self, ahead: ForwardPass) -> float:
        """Return what `gated_delta` keeps."""
        return gated_delta_bytes(ahead, self.num_heads, self.key_dim, self.value_dim)

    def chunk_gradient_bytes(self, ahead: ForwardPass) -> float:
        """Return those of the scores, of keys and values."""
        return chunk_gradients_bytes(ahead, self.num_heads, 1, 2 * (self.key_dim + self.value_dim))

    def chunks(self, taken: Tensors, memory: Tensor | None, runs_BT: Tensor | None) -> Mixed:
        """Return the same in chunks."""
        q_BTNH, k_BTNH, v_BTNW, g_BTN, beta_BTN = taken
        return gated_delta(q_BTNH, k_BTNH, v_BTNW, g_BTN, beta_BTN, memory, runs_BT)

    def fused(self, call: Call, taken: Tensors, memory: Tensor | None, ends: Tensor | None) -> Mixed:
        """Return the same by the kernel."""
        more = {} if memory is None else {"initial_state": memory, "output_final_state": True}
        mixed: Mixed = call(*taken, scale=1.0, cu_seqlens=ends, **more)
        return mixed

    def one_token(self, taken: Tensors, memory: Tensor) -> Tensor:
        """Take one step in place."""
        q_BNH, k_BNH, v_BNW, g_BN, beta_BN = taken
        memory_XHW = memory.mul_(g_BN.exp()[..., None, None]).flatten(0, 1)  # X: rows × heads
        v_X1W, beta_X11 = v_BNW.flatten(0, 1)[:, None], beta_BN.flatten()[:, None, None]
        k_X1H = k_BNH.flatten(0, 1)[:, None]
        new_X1W = (v_X1W - torch.bmm(k_X1H, memory_XHW)) * beta_X11
        memory_XHW.baddbmm_(k_X1H.mT, new_X1W)
        return torch.bmm(q_BNH.flatten(0, 1)[:, None], memory_XHW).view_as(v_BNW)

    def outputs(self, mixed_BTNW: Tensor, rest: Tensors) -> Tensor:
        """Return what was read, normalised in each head and gated."""
        (gate_BTX,) = rest
        normed_BTNW = self.norm(mixed_BTNW.to(gate_BTX.dtype))
        out_BTD: Tensor = self.out(normed_BTNW.flatten(2) * F.silu(gate_BTX))
        return out_BTD


def _of_length(x_BTNH: Tensor, length: float) -> Tensor:
    """Return vectors of this length in the same direction; sums are taken in float32."""
    wide = x_BTNH.float()
    return (wide * ((wide.square().sum(-1, keepdim=True) + _LENGTH_EPS).rsqrt() * length)).to(x_BTNH.dtype)


def _supports(shape: Shape, position: Position) -> None:
    refuse("gated_deltanet", shape, position)


ENTRY = MixerEntry(
    card=Card(
        title="Gated DeltaNet",
        source="arXiv:2412.06464",
        improves=("memory", "latency", "throughput"),
        costs=("quality", "compute"),
        note="against attention, the more the longer the context; the delta rule costs arithmetic",
    ),
    build=GatedDeltaNet,
    supports=_supports,
)
