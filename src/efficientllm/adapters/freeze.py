"""Freezing: the last blocks are trained, those before them stay as they are."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._whole import WholeWeights
from efficientllm.errors import UserError
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder, blocks: int = 2) -> Attached:
    """Train the last blocks alone.

    Raises:
        UserError: there are not so many.
    """
    num_layers = decoder.shape.num_layers
    if not 1 <= blocks <= num_layers:
        raise UserError(f"freeze: blocks {blocks}, but the model has {num_layers}. Choose from 1 to {num_layers}.")
    decoder.requires_grad_(False)
    for number in range(num_layers - blocks, num_layers):
        decoder.block(number).requires_grad_(True)
    return WholeWeights(decoder)


ENTRY = MethodEntry(
    card=Card(
        title="Training the last blocks only",
        source="arXiv:2505.13840",
        improves=("memory", "compute", "latency"),
        costs=("quality",),
        note="against full fine-tuning",
    ),
    attach=attach,
    alike=False,
    over_packed="it trains the weights themselves, and a packed matrix is frozen",
)
