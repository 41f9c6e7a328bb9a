"""IA3: each layer learns by how much each of its results counts, or each of its inputs at the end of an mlp."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets, leaves
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder, targets: str = ALL) -> Attached:
    """Give each target a vector. Its authors' choice of targets is `k_proj v_proj down_proj`.

    Args:
        decoder: the model.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).
    """
    import peft

    chosen = chosen_targets(decoder, targets)
    ends = {leaf.name for leaf in leaves(decoder) if leaf.ends_mlp}
    inputs = [name for name in chosen if any(end == name or end.endswith(f".{name}") for end in ends)]
    config = peft.IA3Config(target_modules=chosen, feedforward_modules=inputs)
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="IA3",
        source="arXiv:2205.05638",
        improves=("compression", "memory"),
        costs=("quality",),
        note="against LoRA",
    ),
    attach=attach,
)
