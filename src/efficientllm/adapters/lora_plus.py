"""LoRA+: LoRA whose B, which begins at zero, learns at a higher rate than A."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets
from efficientllm.errors import UserError
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(
    decoder: Decoder, rank: int = 16, alpha: float = 0.0, dropout: float = 0.0, targets: str = ALL, ratio: float = 16.0
) -> Attached:
    """Give each target an A and a B of this rank; B's learning rate is `ratio` times A's.

    Args:
        decoder: the model.
        rank: rows of A.
        alpha: B A is scaled by alpha / rank; 0: by two.
        dropout: share of what goes into A that is dropped in training.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).
        ratio: by how much.

    Raises:
        UserError: a ratio that is none.
    """
    import peft

    if ratio <= 0:
        raise UserError(f"lora_plus: ratio {ratio} lets B learn nothing. Choose one above 0.")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,
        lora_dropout=dropout,
        target_modules=chosen_targets(decoder, targets),
    )
    return attach_peft(decoder, config, lambda name: ratio if ".lora_B." in name else 1.0)


ENTRY = MethodEntry(
    card=Card(
        title="LoRA+",
        source="arXiv:2402.12354",
        improves=("quality",),
        costs=(),
        note="against LoRA at the same rate of A",
    ),
    attach=attach,
)
