"""MiSS: what goes in is summed over as many groups as the rank, and one matrix takes these sums."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder, rank: int = 16, dropout: float = 0.0, targets: str = ALL) -> Attached:
    """Give each target a matrix of this many rows.

    Args:
        decoder: the model.
        rank: rows of the matrix.
        dropout: share of what goes in that is dropped in training.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).
    """
    import peft

    config = peft.MissConfig(
        r=rank,
        miss_dropout=dropout,
        target_modules=chosen_targets(decoder, targets),
    )
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="MiSS",
        source="arXiv:2409.15371",
        improves=("compute", "memory"),
        costs=("quality",),
        note="against LoRA",
    ),
    attach=attach,
)
