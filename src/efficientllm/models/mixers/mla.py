"""Multi-head latent attention: keys and values are kept as one small latent vector, shared by all heads."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.errors import Unsupported, UserError
from efficientllm.models.adapted import input_width
from efficientllm.models.forward_pass import FLOAT, ForwardPass
from efficientllm.models.linear import Linear
from efficientllm.models.mixers._attention import attention, one_token_attention, reference_attention
from efficientllm.models.mixers._attention_costs import attention_bytes, attention_working_bytes
from efficientllm.models.mixers._cache import AttentionCache
from efficientllm.models.mixers._coded_cache import CodedCache
from efficientllm.models.mixers._contract import Mixer, MixerEntry, State, causal_pairs
from efficientllm.models.norm import RMSNorm
from efficientllm.models.position._contract import Position, Positions
from efficientllm.models.shape import Shape
from efficientllm.precision.cache._contract import CacheCoder
from efficientllm.records.card import Card


class MultiHeadLatentAttention(Mixer):
    """MLA without a latent for the queries, as in DeepSeek-V2-Lite.

        x ─┬─ queries, a nope and a rope part for each head
           ├─ latent of rank R ─ RMSNorm ─ up ─ keys (nope) and values of each head
           └─ one rotated key of width P, shared by all heads

    The cache holds latent and rotated key alone. Many tokens at once expand them to keys and values; a single new
    token takes the up-projection on its own side instead (absorbed): its queries become R wide, it attends to the
    latents as they lie in the cache, and the mixed latent is turned into values at the end.
    """

    counts_frozen = True

    def __init__(
        self,
        shape: Shape,
        latent_rank: int | None = None,
        nope_dim: int | None = None,
        rope_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.num_heads, self.value_dim = shape, shape.num_heads, shape.head_dim
        self.latent_rank = _count("latent_rank", latent_rank, max(1, shape.width // 8))
        self.nope_dim = _count("nope_dim", nope_dim, shape.head_dim)
        self.rope_dim = self.rotary_dim = _count("rope_dim", rope_dim, max(2, shape.head_dim // 4 * 2))
        if self.rope_dim % 2:
            raise UserError(f"rope_dim {self.rope_dim} of mixer mla is odd. Choose an even one: rope turns pairs.")
        self.query_dim = self.nope_dim + self.rope_dim
        self.scale = self.query_dim**-0.5
        self.parts = (self.num_heads * self.query_dim, self.latent_rank, self.rope_dim)
        self.down = Linear(shape.width, sum(self.parts), bias=shape.qkv_bias)
        self.latent_norm = RMSNorm(self.latent_rank, shape.norm_eps)
        self.up = Linear(self.latent_rank, self.num_heads * (self.nope_dim + self.value_dim))
        self.out = Linear(self.num_heads * self.value_dim, shape.width, bias=shape.out_bias, writes_residual=True)

    def forward(
        self, x_BTD: Tensor, positions: Positions, state: State | None = None, sequence_ids_BT: Tensor | None = None
    ) -> Tensor:
        """Return the mixed tokens; see the contract."""
        nope_BNTH, rope_BNTP, latent_B1SR, key_B1SP = self._project(x_BTD, positions)
        window = self.shape.sliding_window
        if state is not None:
            assert isinstance(state, AttentionCache) and sequence_ids_BT is None
            seen_B1SW = _remember(state, latent_B1SR, key_B1SP, positions)
            if x_BTD.shape[1] == 1:
                return self._absorbed(nope_BNTH, rope_BNTP, seen_B1SW, positions, state.is_fixed_step(1))
            latent_B1SR, key_B1SP = seen_B1SW.split((self.latent_rank, self.rope_dim), -1)
        q_BNTH, k_BNSH, v_BNSH = self._expand(nope_BNTH, rope_BNTP, latent_B1SR, key_B1SP)
        mixed_BNTH = attention(
            q_BNTH, k_BNSH, v_BNSH, positions, scale=self.scale, window=window, sequence_ids_BT=sequence_ids_BT
        )
        return self._write(mixed_BNTH)

    def reference(self, x_BTD: Tensor, positions: Positions, sequence_ids_BT: Tensor | None = None) -> Tensor:
        """Return the same, expanded, with every score written out."""
        q_BNTH, k_BNTH, v_BNTH = self._expand(*self._project(x_BTD, positions))
        window = self.shape.sliding_window
        mixed_BNTH = reference_attention(
            q_BNTH, k_BNTH, v_BNTH, positions, scale=self.scale, window=window, sequence_ids_BT=sequence_ids_BT
        )
        return self._write(mixed_BNTH)

    def allocate(self, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device) -> State:
        """Return an empty cache of latents and rotated keys, side by side."""
        return AttentionCache(batch, 1, (self.latent_rank + self.rope_dim,), max_tokens, dtype, device)

    def allocate_coded(
        self, coder: CacheCoder, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> State:
        """Return an empty cache in which latents and rotated keys, of different magnitude, are coded apart."""
        return CodedCache(coder, batch, 1, (self.latent_rank, self.rope_dim), max_tokens, dtype, device)

    def model_flops(self, new_tokens: int, context: int = 0) -> float:
        """Return those of the absorbed form for one new token, of the expanded form for several."""
        pairs = causal_pairs(new_tokens, context, self.shape.sliding_window)
        projections = self.down.flops_per_token() + self.out.flops_per_token()
        if new_tokens == 1:  # absorbing costs what expanding this one token would
            pair = 2.0 * self.num_heads * (2 * self.latent_rank + self.rope_dim)
            return projections + self.up.flops_per_token() + pairs * pair
        expanding = (new_tokens + context) * self.up.flops_per_token()
        return new_tokens * projections + expanding + pairs * self._pair_flops()

    def reference_flops(self, num_tokens: int) -> float:
        """Return projections, expansion, and two products over all pairs."""
        layers = (self.down, self.up, self.out)
        return num_tokens * sum(x.flops_per_token() for x in layers) + num_tokens**2 * self._pair_flops()

    def cache_bytes_per_token(self, dtype_bytes: int) -> float:
        """Return one latent and one rotated key, whatever the number of heads."""
        return float((self.latent_rank + self.rope_dim) * dtype_bytes)

    def read_bytes(self, context: int, dtype_bytes: int) -> float:
        """Return the part of the cache that the window leaves to see."""
        window = self.shape.sliding_window
        return min(context, window or context) * self.cache_bytes_per_token(dtype_bytes)

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return what went in, the projections, the latent, queries, keys and values at one width, and the result.

        Attention takes one width for all; the result is kept again as the output projection reads it.
        """
        widest, heads = max(self.query_dim, self.value_dim), self.num_heads
        values = widest if self.value_dim < widest else self.nope_dim + self.value_dim  # a copy, or a view
        kept = ahead.numbers(input_width(self.down) + input_width(self.up) + input_width(self.out))
        kept += ahead.numbers(heads * (2 * widest + values))
        kept += attention_bytes(ahead, heads, heads * widest)
        copies = not (ahead.compiled or ahead.accelerator or ahead.dtype_bytes == FLOAT)
        # What the latent's norm keeps: the projections, of which the latent is a view; or copies (see `norm_inputs`).
        gradients = 1 + self.latent_norm.weight.requires_grad
        inputs = ahead.norm_inputs(self.latent_rank, ahead.dtype_bytes, gradients=gradients)
        kept += inputs if copies else ahead.numbers(sum(self.parts))
        return kept + ahead.floats(1)

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the gradients of the result, of queries, keys and values, and of the expanded pairs."""
        widest = max(self.query_dim, self.value_dim)
        rows = self.num_heads * (4 * widest + self.nope_dim + self.value_dim) + sum(self.parts)
        return ahead.numbers(rows) + attention_working_bytes(ahead, self.num_heads * widest)

    def _project(self, x_BTD: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the queries' nope and rope parts, the normalised latent and the shared rotated key."""
        batch, new, _ = x_BTD.shape
        queries, latent_BTR, key_BTP = self.down(x_BTD).split(self.parts, -1)
        q_BNTH = queries.view(batch, new, self.num_heads, self.query_dim).transpose(1, 2)
        nope_BNTH, rope_BNTP = q_BNTH.split((self.nope_dim, self.rope_dim), -1)
        rope_BNTP, key_B1TP = positions.rotate(rope_BNTP, key_BTP[:, None])
        return nope_BNTH, rope_BNTP, self.latent_norm(latent_BTR)[:, None], key_B1TP

    def _expand(
        self, nope_BNTH: Tensor, rope_BNTP: Tensor, latent_B1SR: Tensor, key_B1SP: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, _, seen, _ = latent_B1SR.shape
        pairs = self.up(latent_B1SR[:, 0]).view(batch, seen, self.num_heads, -1).transpose(1, 2)
        k_BNSH, v_BNSH = pairs.split((self.nope_dim, self.value_dim), -1)
        shared = key_B1SP.expand(-1, self.num_heads, -1, -1)
        return torch.cat((nope_BNTH, rope_BNTP), -1), torch.cat((k_BNSH, shared), -1), v_BNSH

    def _absorbed(
        self, nope_BN1H: Tensor, rope_BN1P: Tensor, seen_B1SW: Tensor, positions: Positions, fixed: bool
    ) -> Tensor:
        up_NHR = self.up.weight.view(self.num_heads, -1, self.latent_rank)
        key_NHR, value_NHR = up_NHR[:, : self.nope_dim], up_NHR[:, self.nope_dim :]
        q_BNR = torch.bmm(nope_BN1H[:, :, 0].transpose(0, 1), key_NHR).transpose(0, 1)
        q_BNW = torch.cat((q_BNR, rope_BN1P[:, :, 0]), -1)
        mixed_BNR = one_token_attention(
            q_BNW,
            seen_B1SW,
            seen_B1SW[..., : self.latent_rank],
            positions,
            scale=self.scale,
            window=self.shape.sliding_window,
            fixed=fixed,
        )
        mixed_NBH = torch.bmm(mixed_BNR.transpose(0, 1), value_NHR.transpose(1, 2))
        return self._write(mixed_NBH.transpose(0, 1)[:, :, None])

    def _write(self, mixed_BNTH: Tensor) -> Tensor:
        out_BTD: Tensor = self.out(mixed_BNTH.transpose(1, 2).flatten(2))
        return out_BTD

    def _pair_flops(self) -> float:
        return 2.0 * self.num_heads * (self.query_dim + self.value_dim)


def _remember(state: AttentionCache, latent_B1TR: Tensor, key_B1TP: Tensor, positions: Positions) -> Tensor:
    """Add new tokens to the cache and return all that may be read, latent and rotated key side by side, B1SW."""
    if isinstance(state, CodedCache):
        return torch.cat(state.append((latent_B1TR, key_B1TP), positions), -1)
    (seen_B1SW,) = state.append((torch.cat((latent_B1TR, key_B1TP), -1),), positions)
    return seen_B1SW


def _count(name: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65536:
        raise UserError(f"option {name} of mixer mla is {value!r}. Give a whole number from 1 to 65536.")
    return value


def _supports(shape: Shape, position: Position) -> None:
    if shape.qk_norm:
        raise Unsupported("mla normalises its latent, not each head's query and key: shape.qk_norm has no place in it")
    if shape.rotary_share < 1:
        raise Unsupported(
            "mla sets the part of a head that turns with its option rope_dim: set shape.rotary_share to 1 with it"
        )
    if position.biases_scores:
        raise Unsupported(
            "mla carries positions in one rotary key that all heads share and cache; an encoding that biases each "
            "head's scores takes that key's place and leaves no mla: choose rope, or mha, gqa or mqa"
        )


ENTRY = MixerEntry(
    card=Card(
        title="Multi-head latent attention",
        source="arXiv:2405.04434",
        improves=("memory", "latency"),
        costs=("compute",),
        note="against multi-head attention; the small cache shows at decode, the added arithmetic in training",
    ),
    build=MultiHeadLatentAttention,
    supports=_supports,
    cache_knob="latent_rank",
)
