"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._whole import WholeWeights
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder) -> Attached:
    """Train all parameters."""
    decoder.requires_grad_(True)
    return WholeWeights(decoder)


ENTRY = MethodEntry(
    card=Card(title="Full fine-tuning", source="arXiv:2505.13840", improves=("quality",), costs=("memory", "compute")),
    attach=attach,
    over_packed="it trains the weights themselves, and a packed matrix is frozen",
)
