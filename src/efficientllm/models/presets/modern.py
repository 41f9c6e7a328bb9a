"""Blocks as Llama and Qwen have them: one sublayer after the other, RMSNorm, rotary heads, a gated mlp."""

from __future__ import annotations

from efficientllm.records.card import Card
from efficientllm.records.preset import Preset

ENTRY = Preset(
    card=Card(
        title="Llama-style blocks",
        source="arXiv:2302.13971",
        improves=("quality",),
        note="the baseline of the other presets; it changes nothing of a named size",
    )
)
