"""LoRA: each dense layer learns a correction of low rank, B A, and stays frozen itself."""

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
        alpha: B A is scaled by alpha / rank; 0: by two.
        dropout: share of what goes into A that is dropped in training.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).
    """
    import peft

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,
        lora_dropout=dropout,
        target_modules=chosen_targets(decoder, targets),
    )
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="LoRA",
        source="arXiv:2106.09685",
        improves=("memory", "compression"),
        costs=("quality",),
        note="against full fine-tuning",
    ),
    attach=attach,
)
