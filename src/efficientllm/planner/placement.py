"""Where weights, gradients and the optimiser's state lie: on the device, shared out over ranks, or on the host.

one rank           all on the device
adapters           as well: frozen weights have neither gradients nor a state
several (FSDP2)    each holds its share of matrices and of all that belongs to them, and the small weights whole; a
                   layer's matrices are gathered for its passes, the next one's while it computes; those outside of
                   layers are gathered once. Gradients are summed into shares by the last pass, until which they
                   add up whole
offload optimizer  state on the host; a gradient leaves with the last pass, as soon as it is complete
offload weights    as well the layers' weights, of which two are on the device at a time; gradients leave each pass
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from efficientllm import registry
from efficientllm.models.decoder import Decoder
from efficientllm.models.forward_pass import FLOAT, ForwardPass
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.optimizers._contract import OptimizerEntry

#: torch's CUDA allocator hands out multiples of so many bytes.
_BLOCK_BYTES = 512


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Bytes on one device.

    Attributes:
        weights, optimizer: all through a step; weights with what is gathered of them.
        earlier_gradients: of earlier passes, at the beginning of the last one.
        all_gradients: at the end of the last pass.
        layer_gradient: of one layer, where it is there beside those.
        missing_gradient: of the first layer, where it is one of those and not there yet in its backward pass.
        table_gradient: of the head, in the last layer's backward pass.
        held_table_gradient: of the head, if it is the embedding too and waits for the other half.
        second_table_gradient: of the embedding, beside all others.
    """

    weights: float
    optimizer: float
    earlier_gradients: float
    all_gradients: float
    layer_gradient: float
    missing_gradient: float
    table_gradient: float
    held_table_gradient: float
    second_table_gradient: float


@dataclass(frozen=True)
class _Sizes:
    """Bytes of stored weights, of the gradients of those that are trained, and of the state that belongs to them.

    `layer` is one of them, the first in which something is trained; `layers` are all.
    """

    layer: float
    layer_gradient: float
    layers: float
    outside: float
    gradients: float
    state: float
    buffers: float
    table: float
    trains_table: bool


def first_trained(decoder: Decoder) -> int:
    """Return the number of the first layer in which something is trained, or behind which all is frozen, of the last.

    Nothing before it is kept for the backward pass, unless the token vectors are trained.
    """
    last = len(decoder.blocks) - 1
    if decoder.embed.weight.requires_grad:
        return 0
    trained = (n for n, block in enumerate(decoder.blocks) if any(p.requires_grad for p in block.parameters()))
    return next(trained, last)


def place(decoder: Decoder, num_layers: int, settings: TrainingSettings, ahead: ForwardPass) -> Placement:
    """Return what lies on the device; arguments as for `train_memory.moments`."""
    sizes = _sizes(decoder, num_layers, settings, ahead)
    ranks, state = settings.ranks, sizes.state
    whole, trained = sizes.layers + sizes.outside, sizes.gradients
    tied, more_passes = decoder.head is None, settings.passes > 1
    earlier, final = (trained if more_passes else 0.0), trained / ranks
    weights, beside = whole / ranks + sizes.buffers, sizes.layer_gradient if more_passes and ahead.compiled else 0.0
    if ranks > 1:  # two layers in the products' type, and a layer's gradient before it is shared out
        gathered = sizes.layer * ahead.dtype_bytes / ahead.weight_bytes
        weights += min(2, num_layers) * gathered + sizes.outside
        beside = gathered + sizes.layer * FLOAT / ahead.weight_bytes
    if settings.offload != "none":  # gradients leave while the pass goes on
        state, beside = 0.0, 2 * sizes.layer_gradient
        final = earlier if more_passes and settings.offload == "optimizer" else 0.0
    if settings.offload == "weights":
        earlier = sizes.outside if more_passes else 0.0
        final, weights = earlier, sizes.outside + min(2, num_layers) * sizes.layer + sizes.buffers
    table = sizes.table if sizes.trains_table else 0.0
    waits = tied and (more_passes or settings.offload != "none" or ranks > 1)
    return Placement(
        weights=weights,
        optimizer=state / ranks,
        earlier_gradients=earlier,
        all_gradients=final,
        layer_gradient=beside,
        missing_gradient=sizes.layer_gradient if settings.offload == "none" and ranks == 1 and not more_passes else 0.0,
        table_gradient=table if tied or not more_passes else 0.0,
        held_table_gradient=table if waits else 0.0,
        second_table_gradient=table if tied or more_passes else 0.0,
    )


def _sizes(decoder: Decoder, num_layers: int, settings: TrainingSettings, ahead: ForwardPass) -> _Sizes:
    entry: OptimizerEntry = registry.load("optimizer", settings.optimizer.address())
    inside = list(decoder.blocks.parameters())
    block = list(decoder.block(first_trained(decoder)).parameters())
    known, times = {id(p) for p in inside}, num_layers / len(decoder.blocks)
    outside = [p for p in decoder.parameters() if id(p) not in known]
    buffers = _rounded(decoder.blocks.buffers(), ahead) * times + _rounded(decoder.position.buffers(), ahead)
    return _Sizes(
        layer=_rounded(block, ahead),
        layer_gradient=_rounded(_trained(block), ahead),
        layers=_rounded(inside, ahead) * times,
        outside=_rounded(outside, ahead),
        gradients=_rounded(_trained(inside), ahead) * times + _rounded(_trained(outside), ahead),
        state=_state(entry, inside) * times + _state(entry, outside),
        buffers=buffers,
        table=decoder.head_weight.numel() * ahead.weight_bytes,
        trains_table=decoder.head_weight.requires_grad,
    )


def _rounded(tensors: Iterable[Tensor], ahead: ForwardPass) -> float:
    """Return the bytes of tensors as the allocator counts them."""
    block = _BLOCK_BYTES if ahead.accelerator else 1
    return float(sum(-(-tensor.nbytes // block) * block for tensor in tensors))


def _trained(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad]


def _state(entry: OptimizerEntry, parameters: list[nn.Parameter]) -> float:
    return float(sum(entry.state_bytes(p.shape, p.dtype) for p in _trained(parameters)))
