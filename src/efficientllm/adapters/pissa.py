"""PiSSA: A and B begin as the matrix's largest singular directions, which leave the frozen rest."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(
    decoder: Decoder, rank: int = 16, alpha: float = 0.0, dropout: float = 0.0, targets: str = ALL, niter: int = 16
) -> Attached:
    """Give each target an A and a B of this rank, taken out of its matrix.

    Args:
        decoder: the model.
        rank: rows of A.
        alpha: B A is scaled by alpha / rank; 0: by one.
        dropout: share of what goes into A that is dropped in training.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).
        niter: rounds of the randomised decomposition; 0: the exact one, which takes minutes on large models.
    """
    import peft

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha or rank,
        lora_dropout=dropout,
        target_modules=chosen_targets(decoder, targets),
        init_lora_weights=f"pissa_niter_{niter}" if niter else "pissa",
    )
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="PiSSA",
        source="arXiv:2404.02948",
        improves=("quality",),
        costs=("compression",),
        note="against LoRA; saved with the start that was taken out, twice as large",
    ),
    attach=attach,
)
