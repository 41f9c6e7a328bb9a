"""Native sparse attention: a compressed view of the whole past, a few blocks of it in full, and the last tokens."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from efficientllm.errors import Unsupported
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Linear
from efficientllm.models.mixers._attention import attention
from efficientllm.models.mixers._attention_costs import attention_working_bytes
from efficientllm.models.mixers._contract import Mixer, MixerEntry, State
from efficientllm.models.mixers._nsa_blocks import Blocks, rows_of
from efficientllm.models.mixers._nsa_branches import compressed_branch, selected_branch, sliding_branch
from efficientllm.models.mixers._nsa_compress import Compression, rotate_entries
from efficientllm.models.mixers._nsa_costs import saved_bytes
from efficientllm.models.mixers._nsa_find import find_kernel
from efficientllm.models.mixers._nsa_reference import reference_branches
from efficientllm.models.mixers._nsa_select import Layout, layout_of, packed_layout
from efficientllm.models.mixers._nsa_state import NsaState, Pair, constant_tokens
from efficientllm.models.mixers._nsa_step import nsa_step
from efficientllm.models.norm import RMSNorm
from efficientllm.models.position._contract import Position, Positions
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class NativeSparseAttention(Mixer):
    """NSA as in its paper, with the block sizes of this benchmark.

        x ─┬─ queries, shared by the three branches
           ├─ keys and values, a projection of its own for each branch
           │    compressed  each block of tokens → one entry (an MLP); all entries of the past are seen
           │    selected    the blocks that the compressed branch weighs most, in full; one choice a key/value head
           │    sliding     the last tokens
           └─ gates: a sigmoid for each query head and branch, the weights of the three results

    Keys are compressed as they are projected; the entry is then turned by the position of its block's last token. The
    choice of blocks is not differentiated; all else is.
    """

    uncoded = "nsa's kernels read its caches as they are, and coded keys would change which blocks a token chooses"

    def __init__(
        self,
        shape: Shape,
        window: int = 128,
        select_block: int = 64,
        num_selected: int = 4,
        compress_block: int = 32,
        compress_stride: int = 16,
    ) -> None:
        super().__init__()
        self.blocks = Blocks(window, select_block, num_selected, compress_block, compress_stride)
        self.shape, self.rotary_dim, self.room_step = shape, shape.head_dim, compress_stride
        self.num_heads, self.num_kv_heads = shape.num_heads, shape.num_kv_heads
        self.group = shape.num_heads // shape.num_kv_heads
        self.q_rows, self.kv_rows = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.scale = shape.head_dim**-0.5
        self.qkv = Linear(shape.width, self.q_rows + 6 * self.kv_rows, bias=shape.qkv_bias)
        self.gate = Linear(shape.width, 3 * shape.num_heads)
        self.compress_keys = Compression(self.blocks, shape.head_dim)
        self.compress_values = Compression(self.blocks, shape.head_dim)
        self.out = Linear(self.q_rows, shape.width, writes_residual=True)
        if shape.qk_norm:
            self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps)
            self.k_norms = nn.ModuleList(RMSNorm(shape.head_dim, shape.norm_eps) for _ in range(3))

    def forward(
        self, x_BTD: Tensor, positions: Positions, state: State | None = None, sequence_ids_BT: Tensor | None = None
    ) -> Tensor:
        """Return the mixed tokens; see the contract."""
        q_BNTH, raw, selected, sliding = self._project(x_BTD, positions)
        if state is None:
            layout, compressed = self._entries(raw, positions, sequence_ids_BT)
            mixed = self._branches(q_BNTH, compressed, selected, sliding, layout, positions, sequence_ids_BT)
            return self._write(mixed, x_BTD)
        assert isinstance(state, NsaState) and sequence_ids_BT is None
        new, past = x_BTD.shape[1], state.length
        if new == 1:
            return self._write(nsa_step(self, q_BNTH[:, :, 0], raw, selected, sliding, positions, state), x_BTD)
        state.check_room(new)
        compressed = self._add_entries(raw, positions, state)
        selected = state.put_tokens(state.selected, selected)
        sliding = state.put_ring(state.sliding, sliding, min(past, self.blocks.window - 1))
        here_1T = torch.arange(past, past + new, device=x_BTD.device)[None]
        layout = layout_of(self.blocks, here_1T, compressed[0].shape[2], past + new)
        return self._write(self._branches(q_BNTH, compressed, selected, sliding, layout, positions), x_BTD)

    def reference(self, x_BTD: Tensor, positions: Positions, sequence_ids_BT: Tensor | None = None) -> Tensor:
        """Return the same with every score written out; packed sequences are taken out and run one by one."""
        if sequence_ids_BT is not None:
            return self._reference_apart(x_BTD, positions, sequence_ids_BT)
        q_BNTH, raw, selected, sliding = self._project(x_BTD, positions)
        _, compressed = self._entries(raw, positions, None)
        mixed = reference_branches(q_BNTH, compressed, selected, sliding, self.blocks, self.scale)
        return self._write(mixed, x_BTD)

    def allocate(self, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device) -> State:
        """Return empty caches."""
        return NsaState(self.blocks, batch, self.num_kv_heads, self.shape.head_dim, max_tokens, dtype, device)

    def model_flops(self, new_tokens: int, context: int = 0) -> float:
        """Return projections, the entries that these tokens complete, and two products for each pair of a branch.

        The scores of blocks are sums of what the compressed branch has computed, and cost no product.
        """
        blocks = self.blocks
        entries = blocks.num_entries(context + new_tokens) - blocks.num_entries(context)
        pairs = sum(
            count(new_tokens, context) for count in (blocks.entry_pairs, blocks.selected_pairs, blocks.window_pairs)
        )
        return new_tokens * self._projection_flops() + entries * self._entry_flops() + pairs * 4.0 * self.q_rows

    def reference_flops(self, num_tokens: int) -> float:
        """Return projections, all entries, and two products over all pairs of each branch."""
        entries = self.blocks.num_entries(num_tokens)
        pairs = num_tokens * entries + 2 * num_tokens**2
        return num_tokens * self._projection_flops() + entries * self._entry_flops() + pairs * 4.0 * self.q_rows

    def cache_bytes_per_token(self, dtype_bytes: int) -> float:
        """Return a key and a value for each token, and for each stride of them, over the key/value heads."""
        return 2.0 * self.kv_rows * dtype_bytes * (1 + 1 / self.blocks.compress_stride)

    def state_bytes(self, dtype_bytes: int) -> int:
        """Return the two rings: the window's tokens, and those of blocks that are not complete."""
        return 2 * self.kv_rows * dtype_bytes * constant_tokens(self.blocks)

    def read_bytes(self, context: int, dtype_bytes: int) -> float:
        """Return the entries, selected tokens and window before the new token, and a block that it completes."""
        blocks = self.blocks
        entries = blocks.num_entries(context)
        completed = blocks.num_entries(context + 1) - entries
        near = min(context, blocks.window - 1)
        vectors = entries + blocks.selected_tokens(context) - 1 + near + completed * (blocks.compress_block - 1)
        return 2.0 * self.kv_rows * dtype_bytes * vectors

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return projections, compression and gates, and what each branch keeps (see `_nsa_costs.py`)."""
        return saved_bytes(self, ahead)

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the gradients of the three results, of queries, and of each branch's keys and values."""
        rows = 4 * self.q_rows + 2 * (self.q_rows + 6 * self.kv_rows)
        return ahead.numbers(rows) + attention_working_bytes(ahead, self.q_rows)

    def implementation(self, dtype: torch.dtype, *, gradients: bool) -> str:
        """Return what computes the selected branch over many tokens; the others are torch's own attention."""
        if find_kernel(self.out.weight.device, dtype, self.shape.head_dim, self.group) is None:
            return "torch, selected blocks as masked attention over all past tokens"
        return f"triton, groups of {self.group} query heads padded to {rows_of(self.group)} rows"

    def compress(self, raw: Pair, positions: Positions, ends_BE: Tensor, consecutive: bool) -> Pair:
        """Return the compressed keys and values BKEH of blocks that end at these tokens of the call."""
        if consecutive:
            keys, values = self.compress_keys.consecutive(raw[0]), self.compress_values.consecutive(raw[1])
        else:
            keys, values = (
                part.ending_at(x, ends_BE)
                for part, x in zip((self.compress_keys, self.compress_values), raw, strict=True)
            )
        if self.shape.qk_norm:
            keys = self.k_norms[0](keys)
        return rotate_entries(keys, positions, ends_BE), values

    def _project(self, x_BTD: Tensor, positions: Positions) -> tuple[Tensor, Pair, Pair, Pair]:
        """Return the queries, and keys and values for the three branches; those to be compressed are not turned."""
        heads_BNTH = self.qkv(x_BTD).unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)
        q, *kv = heads_BNTH.split_with_sizes((self.num_heads, *(self.num_kv_heads,) * 6), dim=1)
        keys = [kv[2], kv[4]]
        if self.shape.qk_norm:
            q, keys = self.q_norm(q), [norm(k) for norm, k in zip(self.k_norms[1:], keys, strict=True)]
        q, turned = positions.rotate(q, torch.cat(keys, 1))
        selected_keys, sliding_keys = turned.split(self.num_kv_heads, 1)
        return q, (kv[0], kv[1]), (selected_keys, kv[3]), (sliding_keys, kv[5])

    def _entries(self, raw: Pair, positions: Positions, sequence_ids_BT: Tensor | None) -> tuple[Layout, Pair]:
        """Return where queries and entries stand in rows without a past, and the entries."""
        new = raw[0].shape[2]
        if sequence_ids_BT is not None:
            layout = packed_layout(self.blocks, sequence_ids_BT, positions)
            return layout, self.compress(raw, positions, layout.ends_BE, consecutive=False)
        here_1T = torch.arange(new, device=raw[0].device)[None]
        layout = layout_of(self.blocks, here_1T, self.blocks.num_entries(new), new)
        return layout, self.compress(raw, positions, layout.ends_BE, consecutive=True)

    def _add_entries(self, raw: Pair, positions: Positions, state: NsaState) -> Pair:
        """Make the entries that the new tokens complete, and return all."""
        blocks, past, new = self.blocks, state.length, raw[0].shape[2]
        first = blocks.num_entries(past)
        raw = state.put_ring(state.raw, raw, past - first * blocks.compress_stride)
        ends_E = torch.arange(first, blocks.num_entries(past + new), device=raw[0].device) * blocks.compress_stride
        ends_1E = ends_E[None] + (blocks.compress_block - 1 - past)
        return state.put_entries(first, self.compress(raw, positions, ends_1E, consecutive=True))

    def _branches(
        self,
        q_BNTH: Tensor,
        compressed: Pair,
        selected: Pair,
        sliding: Pair,
        layout: Layout,
        positions: Positions,
        sequence_ids_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the results of the three branches, BNTH each."""
        blocks, scale, ids, seen = self.blocks, self.scale, sequence_ids_BT, selected[0].shape[2]
        everything = seen <= blocks.reach  # all blocks there are, are selected
        compressed_BNTH, picks = compressed_branch(q_BNTH, *compressed, layout, blocks, scale, not everything)
        kernel = find_kernel(q_BNTH.device, q_BNTH.dtype, self.shape.head_dim, self.group)
        if picks is None:
            selected_BNTH = attention(q_BNTH, *selected, positions, scale=scale, sequence_ids_BT=ids)
        elif kernel is None:
            selected_BNTH = selected_branch(q_BNTH, *selected, picks, layout, blocks, scale)
        else:
            starts_BKTn = layout.first_keys(picks, blocks)
            selected_BNTH = kernel(q_BNTH, *selected, starts_BKTn, scale, blocks.select_block, ids is None)
        return compressed_BNTH, selected_BNTH, sliding_branch(q_BNTH, *sliding, blocks.window, scale, ids)

    def _reference_apart(self, x_BTD: Tensor, positions: Positions, sequence_ids_BT: Tensor) -> Tensor:
        rows = []
        for row, ids in enumerate(sequence_ids_BT.tolist()):
            cuts = [0, *(i for i in range(1, len(ids)) if ids[i] != ids[i - 1]), len(ids)]
            index_1T = positions.index_BT[min(row, positions.index_BT.shape[0] - 1)][None]
            parts = []
            for first, last in pairwise(cuts):
                alone = positions.encoding.at(index_1T[:, first:last], x_BTD.dtype)
                parts.append(self.reference(x_BTD[row : row + 1, first:last], alone))
            rows.append(torch.cat(parts, 1))
        return torch.cat(rows)

    def _write(self, branches: tuple[Tensor, Tensor, Tensor], x_BTD: Tensor) -> Tensor:
        gates_BNT1 = self.gate(x_BTD).sigmoid().transpose(1, 2)[..., None].chunk(3, 1)
        mixed_BNTH = sum(gate * branch for gate, branch in zip(gates_BNT1, branches, strict=True))
        assert isinstance(mixed_BNTH, Tensor)
        out_BTD: Tensor = self.out(mixed_BNTH.transpose(1, 2).flatten(2))
        return out_BTD

    def _projection_flops(self) -> float:
        return sum(layer.flops_per_token() for layer in (self.qkv, self.gate, self.out))

    def _entry_flops(self) -> float:
        return self.num_kv_heads * (self.compress_keys.flops_per_entry() + self.compress_values.flops_per_entry())


def _supports(shape: Shape, position: Position) -> None:
    if shape.sliding_window:
        raise Unsupported("nsa has a window of its own (option window): shape.sliding_window has no place in it")
    if position.biases_scores:
        raise Unsupported("nsa scores compressed blocks, between which and a token a bias by distance means nothing")


ENTRY = MixerEntry(
    card=Card(
        title="Native sparse attention",
        source="arXiv:2502.11089",
        improves=("latency", "compute", "energy"),
        costs=("memory", "quality"),
        note="against full attention over long contexts; it keeps three caches, and on short ones only adds work",
    ),
    build=NativeSparseAttention,
    supports=_supports,
)
