"""VeRA: all layers share random A and B, and each learns only the lengths of their rows."""

from __future__ import annotations

import warnings

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder, rank: int = 64, dropout: float = 0.0, targets: str = ALL) -> Attached:
    """Give each target two vectors; A and B are drawn anew from a fixed seed wherever the adapter is loaded.

    Args:
        decoder: the model.
        rank: rows of the shared A.
        dropout: share of what goes into A that is dropped in training.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).
    """
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the file is without A and B is what is wanted
        config = peft.VeraConfig(
            r=rank,
            vera_dropout=dropout,
            target_modules=chosen_targets(decoder, targets),
            save_projection=False,
        )
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="VeRA",
        source="arXiv:2310.11454",
        improves=("compression", "memory"),
        costs=("quality",),
        note="against LoRA",
    ),
    attach=attach,
    alike=False,  # all layers share two matrices
)
