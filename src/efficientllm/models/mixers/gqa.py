"""Grouped-query attention: groups of query heads share one key/value head."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.models.adapted import input_width
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Linear
from efficientllm.models.mixers._attention import attention, one_token_attention, reference_attention
from efficientllm.models.mixers._attention_costs import attention_bytes, attention_working_bytes, repeats_keys
from efficientllm.models.mixers._cache import AttentionCache
from efficientllm.models.mixers._coded_cache import CodedCache
from efficientllm.models.mixers._contract import Mixer, MixerEntry, State, causal_pairs
from efficientllm.models.norm import RMSNorm
from efficientllm.models.position._contract import Positions
from efficientllm.models.shape import Shape
from efficientllm.precision.cache._contract import CacheCoder
from efficientllm.records.card import Card


class GroupedQueryAttention(Mixer):
    """Causal attention with `num_heads` query heads over `num_kv_heads` key/value heads.

    The three projections are one matrix, rows in the order q, k, v, so that a step makes one product of them.
    """

    counts_frozen = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.rotary_dim = shape, shape.head_dim
        self.q_rows, self.kv_rows = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.scale = shape.head_dim**-0.5
        self.qkv = Linear(shape.width, self.q_rows + 2 * self.kv_rows, bias=shape.qkv_bias)
        self.out = Linear(self.q_rows, shape.width, bias=shape.out_bias, writes_residual=True)
        if shape.qk_norm:
            self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps)

    def forward(
        self, x_BTD: Tensor, positions: Positions, state: State | None = None, sequence_ids_BT: Tensor | None = None
    ) -> Tensor:
        """Return the mixed tokens; see the contract."""
        batch, new, _ = x_BTD.shape
        q_BNTH, k_BKSH, v_BKSH = self._project(x_BTD, positions)
        window = self.shape.sliding_window
        if state is not None:
            assert isinstance(state, AttentionCache) and sequence_ids_BT is None
            k_BKSH, v_BKSH = state.append((k_BKSH, v_BKSH), positions)
            if new == 1:
                mixed_BNH = one_token_attention(
                    q_BNTH[:, :, 0],
                    k_BKSH,
                    v_BKSH,
                    positions,
                    scale=self.scale,
                    window=window,
                    fixed=state.is_fixed_step(1),
                )
                out_B1D: Tensor = self.out(mixed_BNH.view(batch, 1, self.q_rows))
                return out_B1D
        mixed_BNTH = attention(
            q_BNTH, k_BKSH, v_BKSH, positions, scale=self.scale, window=window, sequence_ids_BT=sequence_ids_BT
        )
        return self._write(mixed_BNTH)

    def reference(self, x_BTD: Tensor, positions: Positions, sequence_ids_BT: Tensor | None = None) -> Tensor:
        """Return the same with every score written out."""
        q_BNTH, k_BKTH, v_BKTH = self._project(x_BTD, positions)
        window = self.shape.sliding_window
        mixed_BNTH = reference_attention(
            q_BNTH, k_BKTH, v_BKTH, positions, scale=self.scale, window=window, sequence_ids_BT=sequence_ids_BT
        )
        return self._write(mixed_BNTH)

    def allocate(self, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device) -> State:
        """Return an empty cache of keys and values."""
        widths = (self.shape.head_dim, self.shape.head_dim)
        return AttentionCache(batch, self.shape.num_kv_heads, widths, max_tokens, dtype, device)

    def allocate_coded(
        self, coder: CacheCoder, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> State:
        """Return an empty cache of keys and values in a number format of their own."""
        widths = (self.shape.head_dim, self.shape.head_dim)
        return CodedCache(coder, batch, self.shape.num_kv_heads, widths, max_tokens, dtype, device)

    def model_flops(self, new_tokens: int, context: int = 0) -> float:
        """Return projections, and two products a pair of tokens that see each other."""
        pairs = causal_pairs(new_tokens, context, self.shape.sliding_window)
        return new_tokens * self._projection_flops() + pairs * 4.0 * self.q_rows

    def reference_flops(self, num_tokens: int) -> float:
        """Return projections, and two products over all pairs."""
        return num_tokens * self._projection_flops() + num_tokens**2 * 4.0 * self.q_rows

    def cache_bytes_per_token(self, dtype_bytes: int) -> float:
        """Return a key and a value for each key/value head."""
        return 2.0 * self.kv_rows * dtype_bytes

    def read_bytes(self, context: int, dtype_bytes: int) -> float:
        """Return the part of the cache that the window leaves to see."""
        window = self.shape.sliding_window
        return min(context, window or context) * self.cache_bytes_per_token(dtype_bytes)

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return what went in, the projections, of which the values are a view, queries and keys, and the result."""
        shape, turned = self.shape, ahead.rotates or self.shape.qk_norm
        repeats = repeats_keys(ahead, self.q_rows > self.kv_rows, shape.sliding_window)
        kept = ahead.numbers(input_width(self.qkv)) + attention_bytes(ahead, shape.num_heads, self.q_rows)
        if not (repeats and turned):  # otherwise nothing is a view of them
            kept += ahead.numbers(self.q_rows + 2 * self.kv_rows)
        kept += ahead.numbers(self.q_rows + (0 if repeats else self.kv_rows)) if turned else 0.0
        kept += ahead.numbers(2 * self.q_rows) if repeats else 0.0
        if shape.qk_norm or ahead.turns_part:  # heads lie one after another: the output reads a copy of the result
            kept += ahead.numbers(input_width(self.out))
        return kept + (self._norm_bytes(ahead) if shape.qk_norm else 0.0)

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the gradients of the result, of queries, keys and values, and of the projections."""
        rows = self.q_rows + 2 * self.kv_rows
        repeated = 2 * self.q_rows if self.kv_rows < self.q_rows else 0
        return ahead.numbers(self.q_rows + repeated + 2 * rows) + attention_working_bytes(ahead, self.q_rows)

    def checkpoint_names(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Return the names of Llama, Qwen2, Qwen3 and Mistral."""
        rows = (("q_proj", self.q_rows), ("k_proj", self.kv_rows), ("v_proj", self.kv_rows))
        names = {
            "qkv.weight": tuple((f"self_attn.{part}.weight", count) for part, count in rows),
            "out.weight": (("self_attn.o_proj.weight", self.shape.width),),
        }
        if self.shape.qkv_bias:
            names["qkv.bias"] = tuple((f"self_attn.{part}.bias", count) for part, count in rows)
        if self.shape.qk_norm:
            names |= {f"{x}_norm.weight": ((f"self_attn.{x}_norm.weight", self.shape.head_dim),) for x in "qk"}
        return names

    def _project(self, x_BTD: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        batch, new, _ = x_BTD.shape
        heads_BNTH = self.qkv(x_BTD).view(batch, new, -1, self.shape.head_dim).transpose(1, 2)
        counts = (self.shape.num_heads, self.shape.num_kv_heads, self.shape.num_kv_heads)
        q_BNTH, k_BKTH, v_BKTH = heads_BNTH.split_with_sizes(counts, dim=1)
        if self.shape.qk_norm:
            q_BNTH, k_BKTH = self.q_norm(q_BNTH), self.k_norm(k_BKTH)
        q_BNTH, k_BKTH = positions.rotate(q_BNTH, k_BKTH)
        return q_BNTH, k_BKTH, v_BKTH

    def _write(self, mixed_BNTH: Tensor) -> Tensor:
        out_BTD: Tensor = self.out(mixed_BNTH.transpose(1, 2).flatten(2))
        return out_BTD

    def _norm_bytes(self, ahead: ForwardPass) -> float:
        """Return what the norms of queries and keys keep: statistics, and eager what went in."""
        normed = self.q_rows + self.kv_rows
        inputs = (
            0.0
            if ahead.compiled
            else ahead.norm_inputs(normed, ahead.dtype_bytes, gradients=1 + self.q_norm.weight.requires_grad)
        )
        heads = self.shape.num_heads + self.shape.num_kv_heads
        return inputs + ahead.floats(heads)

    def _projection_flops(self) -> float:
        return self.qkv.flops_per_token() + self.out.flops_per_token()


ENTRY = MixerEntry(
    card=Card(
        title="Grouped-query attention",
        source="arXiv:2305.13245",
        improves=("memory", "latency"),
        costs=("quality",),
        note="against multi-head attention",
    ),
    build=GroupedQueryAttention,
    cache_knob="head_dim",
)
