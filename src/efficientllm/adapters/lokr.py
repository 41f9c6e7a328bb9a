"""LoKr: the correction is the Kronecker product of a small matrix and one of low rank."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder, rank: int = 16, alpha: float = 0.0, dropout: float = 0.0, targets: str = ALL) -> Attached:
    """Give each target the factors of a Kronecker product.

    Args:
        decoder: the model.
        rank: of the larger factor, which is whole where it is smaller than that.
        alpha: the product is scaled by alpha / rank; 0: by one.
        dropout: share of the correction's rows that is dropped in training.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).
    """
    import peft

    config = peft.LoKrConfig(
        r=rank,
        alpha=alpha or rank,
        rank_dropout=dropout,
        target_modules=chosen_targets(decoder, targets),
    )
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="LoKr",
        source="arXiv:2309.14859",
        improves=("compression",),
        costs=("compute", "memory"),
        note="against LoRA of the same rank",
    ),
    attach=attach,
)
