"""The one call that brings a decoder's dense layers into a number format, calibrated or not."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from efficientllm.errors import UserError
from efficientllm.models.block import Block
from efficientllm.models.calibrate import pack_block_by_block
from efficientllm.models.decoder import Decoder
from efficientllm.models.part import Chooser
from efficientllm.precision.pack import load_precision, pack_frozen
from efficientllm.records.choice import Choice


def dense_layers(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield owner and attribute of the dense layers inside a module; not those of routers, nor stacked experts."""
    choosers = {id(layer) for part in module.modules() if isinstance(part, Chooser) for layer in part.modules()}
    for owner in module.modules():
        for attribute, layer in owner.named_children():
            if isinstance(layer, nn.Linear) and id(layer) not in choosers:
                yield owner, attribute


def pack_decoder(decoder: Decoder, choice: Choice, calibration_rows: Tensor | None = None) -> int:
    """Bring all dense layers of a decoder's blocks into a format; return how many.

    Embeddings, head, norms, routers and stacked experts stay as they are.

    Args:
        decoder: the model, on its device, in its type.
        choice: the format.
        calibration_rows: tokens BT of training text (see `calibrate.calibration_rows`), for a format that needs them.

    Raises:
        UnknownNameError: no such format.
        UserError: an option that it does not have or refuses, or no rows where it needs them.
        Unsupported: rows longer than the position encoding reaches.
    """
    if not load_precision(choice).needs_inputs:
        return pack_frozen(list(dense_layers(decoder.blocks)), choice)
    if calibration_rows is None or not calibration_rows.numel():
        raise UserError(f"{choice.name} needs calibration text: a corpus with at least one row of training text.")
    packed = 0

    def pack(block: Block, moments: dict[nn.Module, Tensor]) -> None:
        nonlocal packed
        holders = list(dense_layers(block))
        packed += pack_frozen(holders, choice, moments)

    pack_block_by_block(decoder, calibration_rows, pack)
    return packed
