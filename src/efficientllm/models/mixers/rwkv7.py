"""RWKV-7: each channel of a key fades at its own rate, and tokens replace what their keys recall."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.errors import UserError
from efficientllm.models.forward_pass import FLOAT, ForwardPass
from efficientllm.models.linear import Linear
from efficientllm.models.mixers._chunked import vector_delta
from efficientllm.models.mixers._chunked_costs import chunk_gradients_bytes, vector_delta_bytes
from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.mixers._kernels import Kernel
from efficientllm.models.mixers._recurrent import Call, Mixed, RecurrentMixer, Tensors, count, refuse
from efficientllm.models.mixers._runs import Runs
from efficientllm.models.position._contract import Position
from efficientllm.models.shape import Shape
from efficientllm.precision._contract import PackedLinear
from efficientllm.records.card import Card

#: It has no queries and keys of attention that a rotary encoding could turn.
SLOTS = {"position": "none"}

#: Log decays lie between minus this and 0: exp(-.5), so that no channel forgets more than 45 % at a token.
_FASTEST = 0.6065306597126334

#: What is mixed of a token and the one before it, in this order.
_MIXES = "rwkvag"

#: The group norm's epsilon for each channel of a head.
_NORM_EPS = 1e-5


class Rwkv7(RecurrentMixer):
    """The time mix: S_t = (diag(w_t) - a_t κ_t κ_tᵀ) S_{t-1} + k_t v_tᵀ, read by r_t.

        x ─ token shift ─┬─ r, k, v ─────────────────────────┐
                         ├─ w: what each channel keeps ──────┼─ recurrence ─ group norm ─ + bonus ─ × g ─ out
                         ├─ a: how much of κ's recall goes ──┘                                      │
                         └─ g ──────────────────────────────────────────────────────────────────────┘

    w, a and g come through low ranks, of the published sizes for the width; κ is the key before `a`, at length 1; the
    bonus adds the token's own value, weighted by r, k and a learned vector. Left out is the value residual, which
    mixes the first layer's values into those of all others: a mixer here sees its own layer only. The channel mix is
    the mlp's slot. Heads of 64 (`head_dim` of the shape where 64 does not divide the width); about 4 D² parameters and
    the low ranks, as published; `num_heads` and `num_kv_heads` play no part.
    """

    kernel = Kernel("fla.ops.rwkv7", "chunk_rwkv7")

    def __init__(
        self,
        shape: Shape,
        head_dim: int | None = None,
        decay_rank: int | None = None,
        rate_rank: int | None = None,
        gate_rank: int | None = None,
    ) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.head_dim = count("rwkv7", "head_dim", head_dim, shape.head_dim if width % 64 else 64)
        if width % self.head_dim:
            raise UserError(f"head_dim {self.head_dim} of mixer rwkv7 does not divide the width {width}.")
        self.num_heads = width // self.head_dim
        small, large = _rank(1.8 * width**0.5), _rank(0.6 * width**0.8)
        ranks = (
            count("rwkv7", "decay_rank", decay_rank, small),
            count("rwkv7", "rate_rank", rate_rank, small),
            count("rwkv7", "gate_rank", gate_rank, large),
        )
        ramp_D = torch.arange(width, dtype=torch.float32) / width
        self.shift = _first(torch.stack([1 - ramp_D ** _POWERS[name] for name in _MIXES]))  # first channels look back
        self.r, self.k, self.v = (Linear(width, width) for _ in range(3))
        self.w_down, self.a_down, self.g_down = (Linear(width, rank) for rank in ranks)
        self.w_up, self.a_up, self.g_up = (Linear(rank, width) for rank in ranks)
        self.w_bias = _first(-5.5 + 6 * ramp_D)  # … and fade most slowly
        self.a_bias = _first(torch.full((width,), -0.19))
        self.key_scale = _first(torch.full((width,), 0.71))
        self.key_rate = _first(torch.full((width,), 1.02))
        self.bonus = _first(torch.full((self.num_heads, self.head_dim), -0.04))
        self.norm = nn.GroupNorm(self.num_heads, width, eps=_NORM_EPS * self.head_dim)
        self.out = Linear(width, width, writes_residual=True)
        self.recent_shape = (1, width)
        self.memory_shape = (self.num_heads, self.head_dim, self.head_dim)
        layers = sum(part.flops_per_token() for part in self.children() if isinstance(part, Linear | PackedLinear))
        self.token_flops = layers + 4 * 2.0 * width * self.head_dim  # recall, two writes, a read

    def project(self, x_BTD: Tensor) -> Tensors:
        """Return the tokens as they are: what is projected is a mix of two of them."""
        return (x_BTD,)

    def inputs(
        self, parts: Tensors, before: Tensor | None, runs: Runs | None, *, plain: bool
    ) -> tuple[Tensors, Tensors]:
        """Return r, log w, k, v, -κ, a κ; and r, k, v again, for the bonus, with the gates."""
        (x_BTD,) = parts
        shifted_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0)) if before is None else torch.cat((before, x_BTD[:, :-1]), 1)
        if runs is not None:
            shifted_BTD = shifted_BTD * runs.together(1)[..., None]
        delta_BTD = shifted_BTD - x_BTD
        mixed = [torch.addcmul(x_BTD, delta_BTD, share_D.to(x_BTD.dtype)) for share_D in self.shift]
        r_BTD, k_BTD, v_BTD = self.r(mixed[0]), self.k(mixed[2]), self.v(mixed[3])
        log_w_BTD = -_FASTEST * (self.w_up(self.w_down(mixed[1]).tanh()).float() + self.w_bias.float()).sigmoid()
        a_BTD = (self.a_up(self.a_down(mixed[4])) + self.a_bias).sigmoid().to(k_BTD.dtype)
        g_BTD = self.g_up(self.g_down(mixed[5]).sigmoid())
        heads = (self.num_heads, self.head_dim)
        kappa_BTNH = F.normalize((k_BTD * self.key_scale).float().unflatten(-1, heads), dim=-1).to(k_BTD.dtype)
        k_BTD = k_BTD.addcmul(k_BTD * (a_BTD - 1), self.key_rate.to(k_BTD.dtype))
        r, log_w, k, v, a = (x.unflatten(-1, heads) for x in (r_BTD, log_w_BTD, k_BTD, v_BTD, a_BTD))
        return (r, log_w, k, v, -kappa_BTNH, kappa_BTNH * a), (r, k, v, g_BTD)

    def recurrence(self, taken: Tensors, keep_BT: Tensor) -> Tensor:
        """Return what the tokens read, step by step."""
        r_BTNH, g_BTNH, k_BTNH, v_BTNW, a_BTNH, b_BTNH = taken
        kept_BTNH = g_BTNH.exp()
        state_BNHW, read = v_BTNW.new_zeros(*k_BTNH[:, 0].shape, v_BTNW.shape[-1]), []
        for t in range(r_BTNH.shape[1]):
            state_BNHW = keep_BT[:, t, None, None, None] * state_BNHW
            recalled_BN1W = a_BTNH[:, t, :, None, :] @ state_BNHW
            replaced_BNHW = b_BTNH[:, t, :, :, None] @ recalled_BN1W
            write_BNHW = k_BTNH[:, t, :, :, None] @ v_BTNW[:, t, :, None, :]
            state_BNHW = kept_BTNH[:, t, :, :, None] * state_BNHW + replaced_BNHW + write_BNHW
            read.append((r_BTNH[:, t, :, None, :] @ state_BNHW)[:, :, 0])
        return torch.stack(read, 1)

    def outside_bytes(self, ahead: ForwardPass) -> float:
        """Return six mixes of two tokens, the ranks' inner sides, rates, keys, and what is normed and gated.

        Decays, rates and keys are worked out in float32, which is a further copy where products take another type.
        """
        width, heads = self.shape.width, ahead.floats(self.num_heads)
        ranks = ahead.numbers(sum(part.out_features for part in (self.w_down, self.a_down, self.g_down)))
        if ahead.compiled:
            return ranks + ahead.numbers(17 * width) + heads
        copies = ahead.floats(3 * width) if ahead.dtype_bytes < FLOAT else 0.0
        return ranks + ahead.residuals(width) + ahead.numbers(19 * width) + copies + 3 * heads

    def taken_bytes(self, ahead: ForwardPass) -> float:
        """Return the decays, κ and a κ; r, k and v are kept for the bonus."""
        width = self.shape.width
        return 0.0 if ahead.compiled else ahead.numbers(2 * width) + ahead.floats(width)

    def chunk_bytes(self, ahead: ForwardPass) -> float:
        """Return what `vector_delta` keeps."""
        return vector_delta_bytes(ahead, self.num_heads, self.head_dim, self.head_dim)

    def chunk_gradient_bytes(self, ahead: ForwardPass) -> float:
        """Return those of four kinds of scores, and of what they are made of."""
        return chunk_gradients_bytes(ahead, self.num_heads, 4, 8 * self.head_dim)

    def chunks(self, taken: Tensors, memory: Tensor | None, runs_BT: Tensor | None) -> Mixed:
        """Return the same in chunks."""
        r_BTNH, g_BTNH, k_BTNH, v_BTNW, a_BTNH, b_BTNH = taken
        return vector_delta(r_BTNH, g_BTNH, k_BTNH, v_BTNW, a_BTNH, b_BTNH, memory, runs_BT)

    def fused(self, call: Call, taken: Tensors, memory: Tensor | None, ends: Tensor | None) -> Mixed:
        """Return the same by the kernel, which may rely on the decay's bound."""
        more = {} if memory is None else {"initial_state": memory, "output_final_state": True}
        bound = {"safe_gate": True, "chunk_size": 64, "lower_bound": -_FASTEST}
        mixed: Mixed = call(*taken, scale=1.0, cu_seqlens=ends, **bound, **more)
        return mixed

    def one_token(self, taken: Tensors, memory: Tensor) -> Tensor:
        """Take one step in place."""
        r_XH, g_XH, k_XH, v_XW, a_XH, b_XH = (x.flatten(0, 1) for x in taken)  # X: rows × heads
        memory_XHW = memory.flatten(0, 1)
        recalled_X1W = torch.bmm(a_XH[:, None], memory_XHW)
        writes_X2W = torch.cat((recalled_X1W, v_XW[:, None]), 1)
        memory_XHW.mul_(g_XH.exp()[..., None]).baddbmm_(torch.stack((b_XH, k_XH), 2), writes_X2W)
        return torch.bmm(r_XH[:, None], memory_XHW).view_as(taken[3])

    def outputs(self, mixed_BTNW: Tensor, rest: Tensors) -> Tensor:
        """Return what was read, normalised in each head, with the token's own value added, gated."""
        r_BTNH, k_BTNH, v_BTNW, g_BTD = rest
        normed_BTD = self.norm(mixed_BTNW.flatten(0, 1).flatten(1).to(g_BTD.dtype)).view_as(g_BTD)
        weights_BTN1 = (r_BTNH * k_BTNH * self.bonus.to(r_BTNH.dtype)).sum(-1, keepdim=True)
        out_BTD: Tensor = self.out((normed_BTD + (weights_BTN1 * v_BTNW).flatten(2)) * g_BTD)
        return out_BTD


#: How steeply the first shares of the token before fall over the channels: those of a middle layer as published.
_POWERS = {"r": 0.1, "w": 0.45, "k": 0.35, "v": 0.35, "a": 0.45, "g": 0.1}


def _first(values: Tensor) -> nn.Parameter:
    """Return a parameter with these first values, worked out in float32, in the format that the model is built in."""
    return nn.Parameter(values.to(torch.get_default_dtype()))


def _rank(size: float) -> int:
    """Return the published rounding of a rank: to a multiple of 32, at least 32."""
    return max(32, round(size / 32) * 32)


def _supports(shape: Shape, position: Position) -> None:
    refuse("rwkv7", shape, position)


ENTRY = MixerEntry(
    card=Card(
        title="RWKV-7",
        source="arXiv:2503.14456",
        improves=("memory", "latency", "throughput"),
        costs=("quality", "compute"),
        note="against attention, the more the longer the context; the time mix alone, without the value residual",
    ),
    build=Rwkv7,
    supports=_supports,
)
