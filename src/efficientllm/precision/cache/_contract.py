"""What a format of the cache is: how new keys and values are coded, and how those that are cached are read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from efficientllm.records.card import Card


class CacheCoder(Protocol):
    """Codes numbers along their last axis; what belongs together lies in tensors with the same leading axes."""

    def allocate(self, *shape: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
        """Return empty tensors that hold numbers of this shape, coded; `dtype` is that of the numbers."""
        ...

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return numbers coded, in the order of `allocate`."""
        ...

    def decode(self, coded: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Return the numbers."""
        ...


@dataclass(frozen=True)
class CacheEntry:
    """A format's entry.

    Attributes:
        card: the technique's claim.
        coder: `coder(**options)` returns the coder; its keyword parameters are the options a recipe can set.
        bits: bits of a number, its share of the scales included, for heads of 128.
    """

    card: Card
    coder: type[CacheCoder]
    bits: float
