"""Keys and values in 8-bit whole numbers, with a scale for each token and head."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.precision.cache._contract import CacheEntry
from efficientllm.precision.cache._scaled import ScaledCoder
from efficientllm.records.card import Card


class Int8Coder(ScaledCoder):
    """Whole numbers from -127 to 127."""

    name, held_in, largest = "kv_int8", torch.int8, 127.0

    def to_codes(self, per_scale: Tensor) -> Tensor:
        """Return the nearest whole numbers."""
        return per_scale.round().to(torch.int8)

    def from_codes(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return them as floats, which holds each exactly."""
        return codes.to(dtype)


ENTRY = CacheEntry(
    card=Card(
        title="8-bit integers for what is cached",
        source="arXiv:2405.04532",
        improves=("memory", "latency", "throughput"),
        costs=("quality", "compute"),
        note="against a cache in the activations' type; a step first makes numbers of the codes, which is read along "
        "with them in a compiled step and a copy of the whole cache in an eager one",
    ),
    coder=Int8Coder,
    bits=8 + 16 / 128,
)
