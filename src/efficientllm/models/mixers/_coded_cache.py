"""An attention cache whose vectors lie in a number format of their own, eight bits for example."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.models.mixers._cache import AttentionCache
from efficientllm.models.mixers._contract import State
from efficientllm.models.position._contract import Positions
from efficientllm.precision.cache._contract import CacheCoder


class CodedCache(AttentionCache):
    """Vectors of each token, coded when they are written and made numbers again whenever they are read.

    What a token sees, itself included, is always what the cache holds: a prompt as a whole, in pieces or token by token
    gives the same result, and the loss of a text read at once is the one that decoding would have.

    Attributes:
        coder: the format.
        coded: of each of `widths` its tensors, tokens along the third axis.
        dtype: of the numbers that are read.
    """

    def __init__(
        self,
        coder: CacheCoder,
        batch: int,
        num_heads: int,
        widths: tuple[int, ...],
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        State.__init__(self, fixed_shapes=device.type == "cuda")
        self.coder, self.max_tokens, self.dtype = coder, max_tokens, dtype
        self.coded = tuple(
            coder.allocate(batch, num_heads, max_tokens, width, dtype=dtype, device=device) for width in widths
        )

    def append(self, new: tuple[Tensor, ...], positions: Positions) -> tuple[Tensor, ...]:
        """Write the new tokens (BKTW each) and return all that may be read now, as `AttentionCache.append` does."""
        new_coded = tuple(self.coder.encode(x_BKTW.detach()) for x_BKTW in new)
        num_new = new[0].shape[2]
        if self.is_fixed_step(num_new):
            for held, x in self._pairs(new_coded):
                held.index_copy_(2, positions.index_BT[0], x)
            return self._read(self.coded)
        end = self.length + num_new
        assert end <= self.max_tokens, f"the cache has room for {self.max_tokens} tokens, not for {end}"
        for held, x in self._pairs(new_coded):
            held[:, :, self.length : end] = x
        if self.length == 0:
            return self._read(new_coded)
        return self._read(tuple(tuple(held[:, :, :end] for held in part) for part in self.coded))

    def tensors(self) -> tuple[Tensor, ...]:
        """Return codes and what belongs to them."""
        return tuple(held for part in self.coded for held in part)

    def bytes_per_token(self) -> float:
        """Return the growth a token and a sequence, in bytes, scales included."""
        return sum(held.nbytes for held in self.tensors()) / (len(self.coded[0][0]) * self.max_tokens)

    def _pairs(self, new_coded: tuple[tuple[Tensor, ...], ...]) -> list[tuple[Tensor, Tensor]]:
        return [pair for held, new in zip(self.coded, new_coded, strict=True) for pair in zip(held, new, strict=True)]

    def _read(self, coded: tuple[tuple[Tensor, ...], ...]) -> tuple[Tensor, ...]:
        return tuple(self.coder.decode(part, self.dtype) for part in coded)
