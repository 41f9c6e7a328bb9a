"""A decoder's dense layers once more, as a tree of modules with the names that they have in its family's checkpoints.

peft finds layers by their names in a tree of modules and saves adapters under these names. With this tree the targets
of a user's `adapter_config.json` mean what they say, and an adapter trained here loads on the family's model elsewhere.
A decoder of no family has its own names in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.models.checkpoint import checkpoint_parts
from efficientllm.models.decoder import Decoder
from efficientllm.models.part import Chooser


def adaptable(decoder: Decoder) -> Iterator[tuple[nn.Module, str, nn.Linear, list[tuple[str, int]]]]:
    """Yield the dense layers of a decoder's blocks: owner, attribute, layer, and name and rows of each part.

    Not those of routers, which choose, and not stacked experts.
    """
    names = checkpoint_parts(decoder)
    choosers = {id(layer) for part in decoder.modules() if isinstance(part, Chooser) for layer in part.modules()}
    found = [(name, layer) for name, layer in decoder.blocks.named_modules(prefix="blocks") if _dense(layer, choosers)]
    for name, layer in found:
        path, _, attribute = name.rpartition(".")
        pieces = [
            (piece.removesuffix(".weight").removeprefix("decoder."), rows) for piece, rows in names[f"{name}.weight"]
        ]
        assert isinstance(layer, nn.Linear)
        yield decoder.get_submodule(path), attribute, layer, pieces


def grow(decoder: Decoder) -> tuple[nn.Module, list[AdaptedLinear]]:
    """Put an `AdaptedLinear` in the place of each dense layer; return the tree of their rows, and them."""
    root, layers = nn.Module(), []
    for owner, attribute, layer, pieces in list(adaptable(decoder)):
        adapted = AdaptedLinear(layer, owner, attribute)
        setattr(owner, attribute, adapted)
        layers.append(adapted)
        for (name, _), rows in zip(pieces, adapted.split([count for _, count in pieces]), strict=True):
            _hang(root, name, rows)
    return root, layers


def _dense(layer: nn.Module, choosers: set[int]) -> bool:
    return isinstance(layer, nn.Linear) and id(layer) not in choosers


def _hang(root: nn.Module, name: str, leaf: nn.Module) -> None:
    """Put a leaf into the tree; the nodes above it are made as they are needed."""
    *path, last = name.split(".")
    node = root
    for step in path:
        if not hasattr(node, step):
            node.add_module(step, nn.Module())
        node = node.get_submodule(step)
    node.add_module(last, leaf)
