"""16-bit floats, for all weights and activations: nothing is packed."""

from __future__ import annotations

from efficientllm.precision._contract import PrecisionEntry
from efficientllm.records.card import Card

ENTRY = PrecisionEntry(
    card=Card(
        title="16-bit floats",
        source="arXiv:1710.03740",
        improves=("memory", "latency", "throughput", "energy", "compression"),
        costs=("quality",),
        note="against 32-bit floats; large activations may overflow",
    ),
    pack=None,
    bits=16,
    dtype="float16",
)
