"""Multi-query attention: all query heads share one key/value head."""

from __future__ import annotations

from dataclasses import replace

from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.mixers.gqa import GroupedQueryAttention
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


def multi_query_attention(shape: Shape) -> GroupedQueryAttention:
    """Grouped-query attention with one group."""
    return GroupedQueryAttention(replace(shape, num_kv_heads=1))


ENTRY = MixerEntry(
    card=Card(
        title="Multi-query attention",
        source="arXiv:1911.02150",
        improves=("memory", "latency"),
        costs=("quality",),
        note="against multi-head attention",
    ),
    build=multi_query_attention,
    cache_knob="head_dim",
)
