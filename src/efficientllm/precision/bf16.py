"""16-bit brain floats, for all weights and activations: nothing is packed."""

from __future__ import annotations

from efficientllm.precision._contract import PrecisionEntry
from efficientllm.records.card import Card

ENTRY = PrecisionEntry(
    card=Card(
        title="16-bit brain floats",
        source="arXiv:1905.12322",
        improves=("memory", "latency", "throughput", "energy", "compression"),
        costs=("quality",),
        note="against 32-bit floats; eight bits of exponent, eight of precision",
    ),
    pack=None,
    bits=16,
    dtype="bfloat16",
)
