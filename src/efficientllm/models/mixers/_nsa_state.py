"""What NSA remembers: three caches, one for each branch, and the raw tokens of the blocks that are not complete.

    selected     keys and values of every token                                          grows with each token
    compressed   keys and values of every completed block                                grows with each stride
    sliding      keys and values of the last tokens, in a ring                           constant
    raw          keys and values that the next compressed entries are made of, in a ring constant

A token at index i lies in slot i mod size of a ring. A ring overwrites what no later token needs; to go back, the rings
are copied at a mark.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.models.mixers._contract import State
from efficientllm.models.mixers._nsa_blocks import Blocks

Pair = tuple[Tensor, Tensor]


class NsaState(State):
    """The caches. Each is a pair of tensors, keys and values, BKSH.

    Attributes:
        selected, compressed, sliding, raw: as above.
        max_tokens: room.
    """

    def __init__(
        self,
        blocks: Blocks,
        batch: int,
        num_kv_heads: int,
        head_dim: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(fixed_shapes=device.type == "cuda")
        self.blocks, self.max_tokens = blocks, max_tokens
        self._vector_bytes = 2 * num_kv_heads * head_dim * dtype.itemsize
        self._marked: tuple[int, tuple[Tensor, ...]] = (0, ())

        def pair(places: int) -> Pair:
            # Zeros, not empty: what is masked is still multiplied by 0, and 0 * NaN is NaN.
            keys, values = (
                torch.zeros(batch, num_kv_heads, places, head_dim, dtype=dtype, device=device) for _ in range(2)
            )
            return keys, values

        self.selected, self.compressed = pair(max_tokens), pair(-(-max_tokens // blocks.compress_stride))
        self.sliding, self.raw = pair(blocks.window), pair(blocks.compress_block)

    def mark(self) -> None:
        """Remember this point, with a copy of the rings, so that `rewind` can come back to it."""
        self._marked = self.length, tuple(part.clone() for part in (*self.sliding, *self.raw))

    def rewind(self, length: int) -> None:
        """Forget all tokens from `length` on: 0, the marked length, or any while no ring has overwritten a token."""
        marked, copies = self._marked
        if copies and length == marked:
            for part, copy in zip((*self.sliding, *self.raw), copies, strict=True):
                part.copy_(copy)
        else:
            kept = min(self.sliding[0].shape[2], self.raw[0].shape[2])
            assert length in (0, self.length) or self.length <= kept, (
                f"nsa cannot rewind from {self.length} tokens to {length}: its rings have gone on; mark({length}) first"
            )
        if length < marked:
            self._marked = 0, ()
        super().rewind(length)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors that a step reads or writes."""
        return (*self.selected, *self.compressed, *self.sliding, *self.raw)

    def bytes_per_token(self) -> float:
        """Return the growth a token and a sequence, in bytes: one token, and one stride-th of an entry."""
        return self._vector_bytes * (1 + 1 / self.blocks.compress_stride)

    def state_bytes(self) -> int:
        """Return the two rings of a sequence, in bytes."""
        return self._vector_bytes * constant_tokens(self.blocks)

    def check_room(self, num_new: int) -> None:
        """Raise AssertionError if so many more tokens find no room."""
        end = self.length + num_new
        assert end <= self.max_tokens, f"the cache has room for {self.max_tokens} tokens, not for {end}"

    def is_fixed_step(self, num_tokens: int) -> bool:
        """Whether a call with so many new tokens must not look at the host's length."""
        return self.fixed_shapes and num_tokens == 1

    def put_tokens(self, cache: Pair, new: Pair) -> Pair:
        """Write tokens into a cache of all tokens and return all of it that is written."""
        end = self.length + new[0].shape[2]
        for part, x_BKTH in zip(cache, new, strict=True):
            part[:, :, self.length : end] = x_BKTH.detach()
        if self.length == 0:
            return new
        keys, values = (part[:, :, :end] for part in cache)
        return keys, values

    def put_entries(self, first: int, new: Pair) -> Pair:
        """Write compressed entries and return all there are; those before `first` are there already."""
        end = first + new[0].shape[2]
        for part, x_BKEH in zip(self.compressed, new, strict=True):
            part[:, :, first:end] = x_BKEH.detach()
        if first == 0:
            return new
        keys, values = (part[:, :, :end] for part in self.compressed)
        return keys, values

    def put_ring(self, ring: Pair, new: Pair, num_before: int) -> Pair:
        """Return the last `num_before` tokens of a ring with the new ones behind them, and write these."""
        num_new, size = new[0].shape[2], ring[0].shape[2]
        joined = new
        if num_before:
            before = torch.arange(self.length - num_before, self.length, device=new[0].device) % size
            keys, values = (
                torch.cat((part.index_select(2, before), x.to(part.dtype)), 2)
                for part, x in zip(ring, new, strict=True)
            )
            joined = keys, values
        kept = min(num_new, size)
        slots = torch.arange(self.length + num_new - kept, self.length + num_new, device=new[0].device) % size
        for part, x_BKTH in zip(ring, new, strict=True):
            part.index_copy_(2, slots, x_BKTH[:, :, num_new - kept :].detach().to(part.dtype))
        return joined


def put_one(cache: Pair, new: Pair, slot_1: Tensor) -> None:
    """Write one token or entry, BK1H each, where the device says."""
    for part, x_BK1H in zip(cache, new, strict=True):
        part.index_copy_(2, slot_1, x_BK1H.detach().to(part.dtype))


def constant_tokens(blocks: Blocks) -> int:
    """Return the places of the two rings."""
    return blocks.window + blocks.compress_block


def rows_at(cache_BKSH: Tensor, index_BKX: Tensor) -> Tensor:
    """Return the cached vectors BKXH at these indices, in whole rows: several times as fast as `gather`."""
    batch, num_kv_heads, places, head_dim = cache_BKSH.shape
    head_BK1 = torch.arange(batch * num_kv_heads, device=index_BKX.device).view(batch, num_kv_heads, 1)
    rows = (index_BKX + head_BK1 * places).flatten()
    return cache_BKSH.view(-1, head_dim).index_select(0, rows).view(*index_BKX.shape, head_dim)
