"""Mamba-2: a state-space model whose matrices fade by one number a head and token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.errors import UserError
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Linear
from efficientllm.models.mixers._chunked import state_space
from efficientllm.models.mixers._chunked_costs import chunk_gradients_bytes, state_space_bytes
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


class Mamba2(RecurrentMixer):
    """State-space duality with one group: S_t = exp(-A Δ_t) S_{t-1} + Δ_t B_t x_tᵀ and y_t = C_t S_t + D x_t.

        x ─┬─ values x, B, C ─ short convolution ─ recurrence ─┐
           ├─ Δ of each head ──────────────────────┘           ├─ RMSNorm(y silu(z)) ─ out
           └─ gate z ──────────────────────────────────────────┘

    The inner width is `expand` times the residual stream's, in heads of 64; keys B and queries C are shared by all
    heads. So about 6 D² parameters at the default, half as much again as multi-head attention's 4 D²; the published
    models have no mlp beside it, ours has the mlp of its slot. `num_heads`, `num_kv_heads` and `head_dim` of the shape
    play no part, but that `head_dim` is taken where 64 does not divide the inner width. As a state the matrices lie
    as BHNW: all heads are read by the same query in one product.
    """

    kernel = Kernel("fla.ops.simple_gla", "chunk_simple_gla", gated_backward=True)

    def __init__(
        self,
        shape: Shape,
        expand: int | None = None,
        head_dim: int | None = None,
        state_dim: int | None = None,
        conv_taps: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.inner = count("mamba2", "expand", expand, 2) * shape.width
        self.head_dim = count("mamba2", "head_dim", head_dim, shape.head_dim if self.inner % 64 else 64)
        if self.inner % self.head_dim:
            raise UserError(
                f"head_dim {self.head_dim} of mixer mamba2 does not divide its inner width {self.inner}. "
                "Choose a divisor, or another expand."
            )
        self.num_heads = self.inner // self.head_dim
        self.state_dim = count("mamba2", "state_dim", state_dim, min(128, max(1, shape.width // 2)))
        taps = count("mamba2", "conv_taps", conv_taps, 4, least=2)
        self.conv = ShortConv(self.inner + 2 * self.state_dim, taps, bias=True)
        self.parts = (self.inner + 2 * self.state_dim, self.inner, self.num_heads)
        self.proj = Linear(shape.width, sum(self.parts))
        self.decay = HeadDecay(self.num_heads)
        self.skip = nn.Parameter(torch.ones(self.num_heads))
        self.norm = RMSNorm(self.inner, shape.norm_eps)
        self.out = Linear(self.inner, shape.width, writes_residual=True)
        self.recent_shape = (taps - 1, self.parts[0])
        self.memory_shape = (self.state_dim, self.num_heads, self.head_dim)
        layers = self.proj.flops_per_token() + self.conv.flops_per_token() + self.out.flops_per_token()
        self.token_flops = layers + 2 * 2.0 * self.state_dim * self.inner  # a write and a read of the state

    def project(self, x_BTD: Tensor) -> Tensors:
        """Return what the convolution takes, gates and steps."""
        return in_parts(self.proj, x_BTD, self.parts)

    def inputs(
        self, parts: Tensors, before: Tensor | None, runs: Runs | None, *, plain: bool
    ) -> tuple[Tensors, Tensors]:
        """Return C, B, values times their step, log decays; and the values themselves and their gates."""
        together, z_BTX, step_BTN = parts
        mixed = self.conv.reference(together, runs) if plain else self.conv(together, before, runs)
        x_BTX, k_BTH, q_BTH = mixed.split((self.inner, self.state_dim, self.state_dim), -1)
        x_BTNW = x_BTX.unflatten(-1, (self.num_heads, self.head_dim))
        step_BTN, g_BTN = self.decay(step_BTN)
        v_BTNW = (x_BTNW * step_BTN[..., None]).to(x_BTNW.dtype)
        return (q_BTH, k_BTH, v_BTNW, g_BTN), (x_BTNW, z_BTX)

    def recurrence(self, taken: Tensors, keep_BT: Tensor) -> Tensor:
        """Return what the tokens read, step by step."""
        q_BTH, k_BTH, v_BTNW, g_BTN = taken
        kept_BTN = g_BTN.exp() * keep_BT[..., None]
        state_BNHW, read = v_BTNW.new_zeros(()), []
        for t in range(q_BTH.shape[1]):
            write_BNHW = k_BTH[:, t, None, :, None] @ v_BTNW[:, t, :, None, :]
            state_BNHW = kept_BTN[:, t, :, None, None] * state_BNHW + write_BNHW
            read.append((q_BTH[:, t, None, None, :] @ state_BNHW)[:, :, 0])
        return torch.stack(read, 1)

    def outside_bytes(self, ahead: ForwardPass) -> float:
        """Return what went in, the projections, both sides of the convolution, steps, and what is gated and normed."""
        kept = ahead.numbers(self.shape.width + sum(self.parts) + self.parts[0]) + self.conv.saved_bytes(ahead)
        if ahead.compiled:
            return kept + ahead.numbers(2 * self.inner) + ahead.floats(self.inner + 1)
        gated = ahead.numbers(3 * self.inner) + ahead.norm_inputs(self.inner, ahead.dtype_bytes)
        return kept + gated + ahead.floats(2 * self.num_heads + 1)

    def taken_bytes(self, ahead: ForwardPass) -> float:
        """Return values times their step, and decays; the rest are views of what the convolution gives."""
        return 0.0 if ahead.compiled else ahead.numbers(self.inner) + ahead.floats(self.num_heads)

    def chunk_bytes(self, ahead: ForwardPass) -> float:
        """Return what `state_space` keeps."""
        return state_space_bytes(ahead, self.num_heads, self.state_dim, self.head_dim)

    def chunk_gradient_bytes(self, ahead: ForwardPass) -> float:
        """Return those of the scores, of values and of what they read."""
        return chunk_gradients_bytes(ahead, self.num_heads, 1, 2 * self.head_dim)

    def chunks(self, taken: Tensors, memory: Tensor | None, runs_BT: Tensor | None) -> Mixed:
        """Return the same in chunks."""
        q_BTH, k_BTH, v_BTNW, g_BTN = taken
        return state_space(q_BTH, k_BTH, v_BTNW, g_BTN, memory, runs_BT)

    def fused(self, call: Call, taken: Tensors, memory: Tensor | None, ends: Tensor | None) -> Mixed:
        """Return the same by the kernel, which wants queries and keys for each head, and its state as BNHW."""
        q_BTH, k_BTH, v_BTNW, g_BTN = taken
        q_BTNH, k_BTNH = (x[:, :, None].expand(-1, -1, self.num_heads, -1) for x in (q_BTH, k_BTH))
        more = {} if memory is None else {"initial_state": memory.transpose(1, 2), "output_final_state": True}
        read_BTNW, last_BNHW = call(q_BTNH, k_BTNH, v_BTNW, g_BTN, scale=1.0, cu_seqlens=ends, **more)
        return read_BTNW, None if last_BNHW is None else last_BNHW.transpose(1, 2)

    def one_token(self, taken: Tensors, memory: Tensor) -> Tensor:
        """Take one step in place."""
        q_BH, k_BH, v_BNW, g_BN = taken
        memory.mul_(g_BN.exp()[:, None, :, None])
        memory.flatten(2).baddbmm_(k_BH[:, :, None], v_BNW.flatten(1)[:, None])
        return torch.bmm(q_BH[:, None], memory.flatten(2)).view_as(v_BNW)

    def outputs(self, mixed_BTNW: Tensor, rest: Tensors) -> Tensor:
        """Return the gated, normalised sum of what was read and the values themselves."""
        x_BTNW, z_BTX = rest
        y_BTX = torch.addcmul(mixed_BTNW, x_BTNW, self.skip[:, None]).flatten(2).to(z_BTX.dtype)
        out_BTD: Tensor = self.out(self.norm(y_BTX * F.silu(z_BTX)))
        return out_BTD


def _supports(shape: Shape, position: Position) -> None:
    refuse("mamba2", shape, position)


ENTRY = MixerEntry(
    card=Card(
        title="Mamba-2",
        source="arXiv:2405.21060",
        improves=("memory", "latency", "throughput"),
        costs=("quality",),
        note="against attention, the more the longer the context; exact recall is limited by the state",
    ),
    build=Mamba2,
    supports=_supports,
)
