"""Which dense layers of a decoder a method adapts: words and configurations held to the layers that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from efficientllm.adapters._tree import adaptable
from efficientllm.errors import UserError, did_you_mean
from efficientllm.models.decoder import Decoder

ALL = "all-linear"


class Leaf(NamedTuple):
    """A dense layer by its name in the family's checkpoints.

    Attributes:
        name: the whole name, `model.layers.0.self_attn.q_proj`.
        in_features: width of what goes in.
        out_features: width of what comes out.
        ends_mlp: whether it is the last layer of an mlp.
    """

    name: str
    in_features: int
    out_features: int
    ends_mlp: bool

    @property
    def last(self) -> str:
        """The last word of its name, by which targets are told."""
        return self.name.rpartition(".")[2]

    @property
    def most(self) -> int:
        """The highest rank that its matrix can have."""
        return min(self.in_features, self.out_features)


def leaves(decoder: Decoder) -> list[Leaf]:
    """Return the layers that can be adapted, in the decoder's order."""
    mlps = {id(layer) for block in decoder.blocks for layer in block.get_submodule("mlp").modules()}
    found = []
    for _, _, layer, pieces in adaptable(decoder):
        ends = id(layer) in mlps and bool(getattr(layer, "writes_residual", False))
        found += [Leaf(name, layer.in_features, rows, ends) for name, rows in pieces]
    return found


def chosen_targets(decoder: Decoder, targets: str) -> list[str]:
    """Return the names that a recipe's `targets` stands for.

    Args:
        decoder: the model.
        targets: `all-linear`, or names of layers with spaces between, each whole or its last words (`q_proj v_proj`).

    Raises:
        UserError: a name that fits no layer.
    """
    return [*_known(leaves(decoder))] if targets == ALL else _fitting(leaves(decoder), targets.split())


def settle_targets(decoder: Decoder, config: Any) -> list[Leaf]:
    """Give a `peft` configuration the names of its targets, where it says only `all-linear`; return what they fit.

    Raises:
        UserError: they fit nothing, or a rank is larger than a layer.
    """
    from peft.tuners.tuners_utils import check_target_module_exists

    there = leaves(decoder)
    wanted = config.target_modules
    if isinstance(wanted, str) and wanted.lower() == ALL:
        config.target_modules = set(_known(there))
    elif wanted is not None and not isinstance(wanted, str):
        _fitting(there, sorted(wanted))
    found = [] if not config.target_modules else [x for x in there if check_target_module_exists(config, x.name)]
    if not found:
        raise UserError(f"targets {_said(wanted)} fit no layer of this model. {_all(there)}")
    _check_ranks(config, found)
    return found


def all_layers(decoder: Decoder) -> str:
    """Return a sentence with the names of the layers that can be adapted."""
    return _all(leaves(decoder))


def _fitting(there: Sequence[Leaf], names: Sequence[str]) -> list[str]:
    if not names:
        raise UserError(f"targets name no layer. {_all(there)}")
    for name in names:
        if not any(leaf.name == name or leaf.name.endswith(f".{name}") for leaf in there):
            raise UserError(f"no layer is called {name!r}. {did_you_mean(name, _known(there))}{_all(there)}")
    return list(names)


def _check_ranks(config: Any, found: Sequence[Leaf]) -> None:
    """Refuse a correction that could have a higher rank than the matrix; blocks of OFT are counted otherwise."""
    from peft.utils.other import get_pattern_key

    if getattr(config, "r", None) is None or config.peft_type in ("OFT", "BOFT", "HRA"):
        return
    own: dict[str, int] = getattr(config, "rank_pattern", None) or {}
    ranks = {leaf: own.get(get_pattern_key(own.keys(), leaf.name), config.r) for leaf in found}
    if min(ranks.values()) < 1:
        raise UserError(f"rank {min(ranks.values())} is none. Choose 1 or more.")
    for leaf in sorted(found, key=lambda leaf: leaf.most):
        if ranks[leaf] > leaf.most:
            shape = f"{leaf.out_features} x {leaf.in_features}"
            raise UserError(
                f"rank {ranks[leaf]} is larger than {leaf.name}, which is {shape}. The most possible is {leaf.most}."
            )


def _known(there: Sequence[Leaf]) -> dict[str, None]:
    return dict.fromkeys(leaf.last for leaf in there)


def _all(there: Sequence[Leaf]) -> str:
    return f"Its layers: {', '.join(_known(there))}."


def _said(wanted: Any) -> str:
    return repr(wanted) if isinstance(wanted, str) or not wanted else " ".join(sorted(wanted))
