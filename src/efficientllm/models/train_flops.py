"""Operations of a step of training, of which frozen weights need fewer.

A product with a matrix has up to three: the result; the gradient of what went in, if something before it is trained;
the gradient of the matrix, if that is. All else in a layer, such as attention's scores, has no weights: twice its
forward pass where gradients pass through it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from efficientllm.models.decoder import Decoder
from efficientllm.models.linear import StackedLinear


def train_flops(decoder: Decoder, tokens: int) -> float:
    """Return the operations of forward and backward pass on one sequence; adapters that are trained count.

    Gradients begin at the first trained parameter: what comes before it has a forward pass alone.
    """
    flowing = _trained(decoder.embed) or _trained(decoder.position)
    total = 0.0
    for number in range(decoder.shape.num_layers):
        block = decoder.block(number)
        before = flowing
        for norm, part, forward in (
            (block.mixer_norm, block.mixer, block.mixer.model_flops(tokens)),
            (block.mlp_norm, block.mlp, block.mlp.model_flops(tokens)),
        ):
            enters = (before if block.parallel else flowing) or _trained(norm)
            total += _part_flops(part, forward, tokens, enters)
            flowing = flowing or enters or _trained(part)
    head = 2.0 * decoder.head_weight.numel() * tokens
    return total + head * (1 + (flowing or _trained(decoder.norm)) + decoder.head_weight.requires_grad)


def _part_flops(part: nn.Module, forward: float, tokens: int, enters: bool) -> float:
    """Return the operations of a mixer or an mlp.

    Args:
        part: it.
        forward: operations of its forward pass, without adapters.
        tokens: of the sequence.
        enters: whether what goes in needs a gradient.
    """
    if not enters and not _trained(part):
        return forward
    layers = list(_layers(part))
    frozen = sum(flops for layer, flops in layers if not _weight_trained(layer))
    added = sum(_adapter_flops(layer) for layer, _ in layers)
    first, first_flops = layers[0] if layers else (part, 0.0)
    unneeded = 0.0 if enters else first_flops + _adapter_flops(first) / 2  # of an adapter, about half reads the input
    return 3.0 * forward + tokens * (3.0 * added - frozen - unneeded)


def _layers(part: nn.Module) -> Iterator[tuple[nn.Module, float]]:
    """Yield the layers with a matrix, outermost first, and their operations a token."""
    stacked = [layer for layer in part.modules() if isinstance(layer, StackedLinear)]
    held = sum(layer.weight.numel() for layer in stacked)
    idle = part.num_parameters() - part.num_active_parameters() if stacked else 0  # type: ignore[operator]
    inside: set[int] = set()
    for layer in part.modules():
        if id(layer) in inside or not hasattr(layer, "flops_per_token"):
            continue
        inside |= {id(below) for below in layer.modules()}
        if isinstance(layer, StackedLinear):
            yield layer, 2.0 * layer.weight.numel() * (1 - idle / held)
        else:
            yield layer, layer.flops_per_token()  # type: ignore[operator]


def _adapter_flops(layer: nn.Module) -> float:
    """Return what adapters add to a token's forward pass; a layer that can have some says so itself."""
    return float(layer.adapter_flops_per_token()) if hasattr(layer, "adapter_flops_per_token") else 0.0  # type: ignore[operator]


def _weight_trained(layer: nn.Module) -> bool:
    """Whether the layer's own matrix is trained, whatever hangs on it."""
    weight = layer._parameters.get("weight")  # a property of this name may cost a product
    return weight is not None and weight.requires_grad


def _trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
