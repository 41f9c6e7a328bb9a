"""DoRA: the direction of each row is corrected by B A, and its length learned on its own."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder, rank: int = 16, alpha: float = 0.0, dropout: float = 0.0, targets: str = ALL) -> Attached:
    """Give each target an A and a B of this rank, and a length for each row.

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
        use_dora=True,
    )
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="DoRA",
        source="arXiv:2402.09353",
        improves=("quality",),
        costs=("memory", "compute", "latency"),
        note="against LoRA",
    ),
    attach=attach,
)
