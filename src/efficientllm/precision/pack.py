"""From a recipe's choice to layers that are packed, and back."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from efficientllm.errors import UserError
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.records.choice import Choice, load_chosen

#: Tokens of the training text that a calibrated format sees, where its option of this name says nothing else.
CALIBRATION_TOKENS = 16384


def load_precision(choice: Choice) -> PrecisionEntry:
    """Return the entry of a choice, once its options are known to be its own.

    Raises:
        UnknownNameError: no such format.
        UserError: an option that it does not have, or a file whose ENTRY is of another kind.
    """
    return load_chosen("precision", choice, PrecisionEntry, _options)


def calibration_tokens(choice: Choice) -> int:
    """Return how many tokens of training text a format wants to see: 0 if it packs without.

    Raises:
        UnknownNameError: no such format.
        UserError: an option that it does not have, or a number that is none.
    """
    if not load_precision(choice).needs_inputs:
        return 0
    wanted = choice.options.get("calibration_tokens", CALIBRATION_TOKENS)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise UserError(f"{choice.name}: calibration_tokens {wanted!r}: give a whole number from 1.")
    return wanted


def pack_frozen(
    holders: Iterable[tuple[nn.Module, str]], choice: Choice, moments: dict[nn.Module, Tensor] | None = None
) -> int:
    """Put packed layers in the place of dense ones, one after another; return how many.

    At no time is more held than the layers themselves and what coding a part of one matrix takes.

    Args:
        holders: module and the name of its attribute that holds a dense layer; packed ones stay as they are.
        choice: the format.
        moments: mean of x xᵀ over each layer's inputs; it is emptied, so that no layer's outlives its packing.

    Raises:
        UnknownNameError: no such format.
        UserError: an option that it does not have or refuses, or a format that needs what is not given.
    """
    entry, packed = load_precision(choice), 0
    if entry.pack is None:
        raise UserError(f"{choice.name} packs nothing: all weights have it. Name it as a dtype.")
    if entry.needs_inputs and moments is None:
        raise UserError(f"{choice.name} needs calibration text, which is not read here. Choose a format without.")
    options = {name: value for name, value in choice.options.items() if name != "calibration_tokens"}
    for owner, attribute in holders:
        layer = getattr(owner, attribute)
        if not isinstance(layer, PackedLinear):
            seen = {} if moments is None else {"moments_II": _taken(moments, layer, f"{choice.name}: {attribute}")}
            setattr(owner, attribute, _pack(entry, layer, options | seen))
            del seen
            packed += 1
        del layer  # or the matrix lives on while the next one is packed
    return packed


def unpack(layer: PackedLinear) -> nn.Linear:
    """Return an ordinary frozen layer of the matrix as it is read, for merging."""
    weight = layer.weight
    plain = nn.Linear(1, 1, bias=False, device="meta")
    plain.in_features, plain.out_features = layer.in_features, layer.out_features
    plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), layer.bias
    return plain


def _taken(moments: dict[nn.Module, Tensor], layer: nn.Module, what: str) -> Tensor:
    if layer not in moments:
        raise UserError(f"{what}: no token of the calibration rows went through this layer. Give longer rows.")
    return moments.pop(layer)


def _options(entry: PrecisionEntry) -> list[str]:
    """Return the options that a recipe can set."""
    if entry.pack is None:
        return []
    named = [name for name in list(inspect.signature(entry.pack).parameters)[2:] if name != "moments_II"]
    return [*named, "calibration_tokens"] if entry.needs_inputs else named


def _pack(entry: PrecisionEntry, layer: nn.Linear, options: dict[str, Any]) -> PackedLinear:
    assert entry.pack is not None
    made = entry.pack(layer.weight, layer.bias, **options)
    if not any(buffer.nbytes for buffer in made.buffers()) or (made.out_features, made.in_features) != tuple(
        layer.weight.shape
    ):
        form = f"{layer.out_features} × {layer.in_features}"
        raise UserError(f"the format {entry.card.title!r} gives no packed layer for a matrix of {form}.")
    for name, value in vars(layer).items():  # what its owner has noted of the layer, such as `writes_residual`
        if not name.startswith("_") and not hasattr(made, name):
            setattr(made, name, value)
    return made.train(layer.training)
