"""Blocks as GPT-NeoX and Pythia have them: both sublayers side by side, LayerNorm, biases, a quarter of a head turned.

Multi-head attention and a plain mlp of two matrices, four times as wide as the model; the head is a matrix of its own.
What a recipe says of mixer, mlp or shape comes before it.
"""

from __future__ import annotations

from efficientllm.records.card import Card
from efficientllm.records.preset import Preset

ENTRY = Preset(
    card=Card(
        title="GPT-NeoX blocks, as in Pythia",
        source="arXiv:2304.01373",
        improves=("latency",),
        costs=("memory", "quality"),
        note="against today's blocks; mixer and mlp of a block need not wait for each other",
    ),
    shape={
        "parallel_residual": True,
        "norm": "layer",
        "norm_eps": 1e-5,
        "rotary_share": 0.25,
        "rope_theta": 10_000.0,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "tie_embeddings": False,
    },
    slots={"mixer": "mha", "mlp": "gelu"},
    mlp_ratio=4.0,
)
