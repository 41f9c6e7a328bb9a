"""What attention remembers: a few vectors for every token and key/value head."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.models.mixers._contract import State
from efficientllm.models.position._contract import Positions


class AttentionCache(State):
    """Vectors of each token, written once and read by every later token.

    In float32 on a processor tokens lie along the last axis (BKWS): the products with one query row then stream through
    memory at its full rate, more than twice as fast as in the usual order BKSW, which all else keeps.

    Attributes:
        parts: the tensors, one for each of `widths` (keys and values, or MLA's latent alone).
    """

    def __init__(
        self,
        batch: int,
        num_heads: int,
        widths: tuple[int, ...],
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(fixed_shapes=device.type == "cuda")
        self.max_tokens = max_tokens
        self.tokens_last = device.type == "cpu" and dtype == torch.float32
        # Zeros, not empty: what is masked is still multiplied by 0, and 0 * NaN is NaN.
        self.parts = tuple(
            torch.zeros(
                (batch, num_heads, width, max_tokens) if self.tokens_last else (batch, num_heads, max_tokens, width),
                dtype=dtype,
                device=device,
            )
            for width in widths
        )

    def append(self, new: tuple[Tensor, ...], positions: Positions) -> tuple[Tensor, ...]:
        """Write the new tokens (BKTW each) and return all that may be read now (BKSW views).

        In a one-token step of fixed shapes that is the whole cache; else the tokens so far and the new ones.
        """
        if self.is_fixed_step(new[0].shape[2]):
            for part, x_BKTW in zip(self._views(), new, strict=True):
                part.index_copy_(2, positions.index_BT[0], x_BKTW.detach().to(part.dtype))
            return self._views()
        end = self.length + new[0].shape[2]
        assert end <= self.max_tokens, f"the cache has room for {self.max_tokens} tokens, not for {end}"
        for part, x_BKTW in zip(self._views(), new, strict=True):
            part[:, :, self.length : end] = x_BKTW.detach()
        if self.length == 0 and end > 1:
            return new  # as they come they are faster to read than through the cache
        return tuple(part[:, :, :end] for part in self._views())

    def is_fixed_step(self, num_tokens: int) -> bool:
        """Whether a call with so many new tokens must not look at the host's length."""
        return self.fixed_shapes and num_tokens == 1

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the parts."""
        return self.parts

    def bytes_per_token(self) -> float:
        """Return the growth a token and a sequence, in bytes."""
        return sum(part.nbytes for part in self.parts) / (self.parts[0].shape[0] * self.max_tokens)

    def _views(self) -> tuple[Tensor, ...]:
        return tuple(part.transpose(2, 3) for part in self.parts) if self.tokens_last else self.parts
