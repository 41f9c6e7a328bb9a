"""Rank-stabilised LoRA: the correction is scaled by alpha over the rank's square root, so that high ranks learn."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder, rank: int = 16, alpha: float = 0.0, dropout: float = 0.0, targets: str = ALL) -> Attached:
    """Give each target an A and a B of this rank.

    Args:
        decoder: the model.
        rank: rows of A.
        alpha: B A is scaled by alpha / sqrt(rank); 0: alpha is 16, whatever the rank.
        dropout: share of what goes into A that is dropped in training.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).
    """
    import peft

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha or 16,
        lora_dropout=dropout,
        target_modules=chosen_targets(decoder, targets),
        use_rslora=True,
    )
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="rsLoRA",
        source="arXiv:2312.03732",
        improves=("quality",),
        costs=(),
        note="against LoRA, at high ranks",
    ),
    attach=attach,
)
