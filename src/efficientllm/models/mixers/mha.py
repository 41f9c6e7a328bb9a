"""Multi-head attention: each query head has a key/value head of its own."""

from __future__ import annotations

from dataclasses import replace

from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.mixers.gqa import GroupedQueryAttention
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


def multi_head_attention(shape: Shape) -> GroupedQueryAttention:
    """Grouped-query attention with groups of one."""
    return GroupedQueryAttention(replace(shape, num_kv_heads=shape.num_heads))


ENTRY = MixerEntry(
    card=Card(
        title="Multi-head attention",
        source="arXiv:1706.03762",
        improves=("quality",),
        costs=("memory", "latency"),
        note="the baseline of the others",
    ),
    build=multi_head_attention,
    cache_knob="head_dim",
)
