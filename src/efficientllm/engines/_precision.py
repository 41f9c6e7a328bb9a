"""The number format of weights for the native engine: which one, and how a decoder comes to have it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from efficientllm.errors import Unsupported, UserError, did_you_mean
from efficientllm.models.decoder import Decoder
from efficientllm.models.linear import StackedLinear
from efficientllm.models.pack_decoder import dense_layers, pack_decoder
from efficientllm.precision._contract import PackedLinear
from efficientllm.precision.pack import load_precision, pack_frozen
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: What is to be done with each layer of a decoder as soon as it has its weights.
AfterBlock = Callable[[Decoder, int], None]


def weight_format(settings: InferenceSettings, device: torch.device) -> tuple[torch.dtype, AfterBlock | None]:
    """Return the type of the weights, and how those of the layers are packed; None where they are not.

    One that is fitted to text is packed by `calibrate`, once all weights are there.

    A plain format takes the place of the settings' `dtype`. A packed one is that of all dense layers in the blocks;
    token vectors, head and norms stay in `dtype`, which is also that of the stream between the layers.

    Raises:
        UnknownNameError: no such format.
        UserError: no such dtype, or an option that the format does not have.
        Unsupported: the device lacks the format, or the engine cannot make it.
    """
    if settings.dtype not in DTYPES:
        raise UserError(
            f"unknown dtype {settings.dtype!r}. {did_you_mean(settings.dtype, DTYPES)}Known: {', '.join(DTYPES)}."
        )
    dtype, choice = DTYPES[settings.dtype], settings.precision
    if choice is None:
        return dtype, None
    entry = load_precision(choice)
    entry.supports(device)
    if entry.pack is None:
        return DTYPES[entry.dtype], None
    if entry.needs_inputs:
        return dtype, None
    return dtype, lambda decoder, number: pack_block(decoder, number, choice, device)


def calibrate(decoder: Decoder, settings: InferenceSettings, calibration_BT: torch.Tensor | None) -> None:
    """Pack the layers in a format that is fitted to text; with any other nothing is left to do.

    Raises:
        UserError: no text, or an option that the format refuses.
        Unsupported: layers of experts, or a matrix that does not fit the format's products.
    """
    choice = settings.precision
    if choice is None or not load_precision(choice).needs_inputs:
        return
    refuse_experts(decoder, choice)
    pack_decoder(decoder, choice, calibration_BT)
    for owner, attribute in dense_layers(decoder.blocks):
        setattr(owner, attribute, getattr(owner, attribute).served())


def refuse_experts(module: nn.Module, choice: Choice) -> None:
    """Refuse layers that lie in one tensor.

    Raises:
        Unsupported: there are some.
    """
    for name, part in module.named_modules():
        if isinstance(part, StackedLinear):
            raise Unsupported(
                f"{choice.name} packs dense layers one by one, and the experts of {name} are one tensor: measure a "
                "mixture of experts in a plain format"
            )


def pack_block(decoder: Decoder, number: int, choice: Choice, device: torch.device) -> None:
    """Pack the dense layers of one block, on the device, one after another.

    The block may lie elsewhere before: each of its matrices is moved by itself, so that the device holds no more than
    one of them beside what is packed.

    Raises:
        UserError: an option that the format refuses, or a matrix that it cannot hold.
        Unsupported: layers of experts, or a matrix that does not fit the format's products.
    """
    block = decoder.block(number)
    refuse_experts(block, choice)
    layers = [(name, type(part)) for name, part in block.named_modules() if isinstance(part, nn.Linear)]
    for name, kind in layers:
        if not issubclass(kind, PackedLinear):
            path, _, attribute = name.rpartition(".")
            try:
                _serve(block.get_submodule(path), attribute, choice, device)
            except (Unsupported, UserError) as refusal:
                raise type(refusal)(f"precision {choice.name}, blocks.{number}.{name}: {refusal}") from refusal
    block.to(device)


def _serve(owner: nn.Module, attribute: str, choice: Choice, device: torch.device) -> None:
    getattr(owner, attribute).to(device)
    pack_frozen([(owner, attribute)], choice)
    setattr(owner, attribute, getattr(owner, attribute).served())
