"""OFT: what goes into a layer is turned, block by block, by rotations that are learned."""

from __future__ import annotations

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import ALL, chosen_targets, leaves
from efficientllm.errors import UserError
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


def attach(decoder: Decoder, rank: int = 32, targets: str = ALL) -> Attached:
    """Give each target rotations of its inputs; peft 0.21 makes its layer of dropout and never calls it.

    Args:
        decoder: the model.
        rank: inputs that are turned together; it divides the width of each target.
        targets: `all-linear`, or names of layers with spaces between (`q_proj v_proj`).

    Raises:
        UserError: blocks that do not fit.
    """
    import peft

    chosen = chosen_targets(decoder, targets)
    for name, width, *_ in leaves(decoder):
        if any(name == target or name.endswith(f".{target}") for target in chosen) and (rank < 2 or width % rank):
            raise UserError(f"oft: blocks of rank {rank} do not divide {name}, into which {width} numbers go.")
    config = peft.OFTConfig(
        oft_block_size=rank,
        target_modules=chosen,
        use_cayley_neumann=False,  # its series is a rotation only near the start, and is no faster at this size
    )
    return attach_peft(decoder, config)


ENTRY = MethodEntry(
    card=Card(
        title="OFT",
        source="arXiv:2306.07280",
        improves=("quality",),
        costs=("compute", "latency"),
        note="against LoRA",
    ),
    attach=attach,
)
