"""Keys and values in 8-bit floats (e4m3), with a scale for each token and head."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.precision.cache._contract import CacheEntry
from efficientllm.precision.cache._scaled import ScaledCoder
from efficientllm.records.card import Card


class Fp8Coder(ScaledCoder):
    """Floats with four bits of exponent and three of fraction, held as their bits: few operations know the type."""

    name, held_in, largest = "kv_fp8", torch.uint8, 448.0

    def __init__(self) -> None:
        super().__init__()

    def to_codes(self, per_scale: Tensor) -> Tensor:
        """Return the bits of the nearest floats."""
        return per_scale.to(torch.float8_e4m3fn).view(torch.uint8)

    def from_codes(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what bits mean, which every wider type holds exactly."""
        return codes.view(torch.float8_e4m3fn).to(dtype)


ENTRY = CacheEntry(
    card=Card(
        title="8-bit floats for what is cached",
        source="arXiv:2209.05433",
        improves=("memory", "latency", "throughput"),
        costs=("quality", "compute"),
        note="against a cache in the activations' type; a step first makes numbers of the codes, which is read along "
        "with them in a compiled step (compute capability 8.9 on) and a copy of the whole cache in an eager one",
    ),
    coder=Fp8Coder,
    bits=8 + 16 / 128,
)
