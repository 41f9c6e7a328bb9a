"""32-bit floats, for all weights and activations: nothing is packed."""

from __future__ import annotations

from efficientllm.precision._contract import PrecisionEntry
from efficientllm.records.card import Card

ENTRY = PrecisionEntry(
    card=Card(
        title="32-bit floats",
        source="https://ieeexplore.ieee.org/document/8766229",
        note="the reference for everything else",
    ),
    pack=None,
    bits=32,
    dtype="float32",
)
