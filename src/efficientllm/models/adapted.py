"""What a dense layer with adapters says of its memory, asked without knowing adapters: they build upon this package.

A layer that stands in the place of a dense one tells by methods of these names; a plain one is trained or is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from efficientllm.models.forward_pass import ForwardPass


def input_width(layer: nn.Module) -> int:
    """Return how many numbers a token a dense layer keeps of what goes in: none if nothing of it is trained."""
    if hasattr(layer, "input_width"):
        kept: int = layer.input_width()  # type: ignore[operator]
        return kept
    return layer.in_features if layer.weight.requires_grad else 0  # type: ignore[return-value]


def has_factors(layer: nn.Module) -> bool:
    """Whether a layer is a frozen matrix with a correction of low rank (`linear.Factors`), without making them."""
    return bool(layer.has_factors()) if hasattr(layer, "has_factors") else False  # type: ignore[operator]


def added_bytes(module: nn.Module, ahead: ForwardPass) -> float:
    """Return what the adapters inside a module keep for themselves."""
    return float(sum(layer.added_bytes(ahead) for layer in adapted_layers(module)))


def result_bytes(module: nn.Module, ahead: ForwardPass) -> float:
    """Return the results that are kept for an adapter's sake alone."""
    return float(sum(layer.result_bytes(ahead) for layer in adapted_layers(module)))


def made_bytes(module: nn.Module, ahead: ForwardPass) -> float:
    """Return the most that one layer's adapter, or its packed matrix, takes while the backward pass is at it."""
    return float(max((layer.made_bytes(ahead) for layer in adapted_layers(module)), default=0.0))


def uncounted(module: nn.Module, compiled: bool) -> str:
    """Return what the adapters inside a module keep and do not count; empty if nothing."""
    found = dict.fromkeys(layer.uncounted(compiled) for layer in adapted_layers(module))
    return " and ".join(text for text in found if text)


def adapted_layers(module: nn.Module) -> Iterator[Any]:
    """Yield the layers inside a module that may have adapters."""
    return (layer for layer in module.modules() if hasattr(layer, "added_bytes"))


def trained_bytes(module: nn.Module) -> float:
    """Return the bytes of the gradients of a module's weights."""
    return float(sum(p.nbytes for p in module.parameters() if p.requires_grad))


def has_frozen(module: nn.Module) -> bool:
    """Whether any weight of a module is frozen."""
    return not all(p.requires_grad for p in module.parameters())
