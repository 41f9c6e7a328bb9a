"""Where weights, gradients and the optimiser's state lie: on the device, shared out over ranks, or on the host.

one rank           all on the device
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
    """Bytes of stored weights, and of the state that belongs to them."""

    layer: float
    outside: float
    layer_state: float
    outside_state: float
    buffers: float
    table: float


def place(decoder: Decoder, num_layers: int, settings: TrainingSettings, ahead: ForwardPass) -> Placement:
    """Return what lies on the device; arguments as for `train_memory.moments`."""
    sizes = _sizes(decoder, num_layers, settings, ahead)
    layers, ranks = num_layers * sizes.layer, settings.ranks
    whole = layers + sizes.outside
    state = num_layers * sizes.layer_state + sizes.outside_state
    tied, more_passes = decoder.head is None, settings.passes > 1
    earlier, final = (whole if more_passes else 0.0), whole / ranks
    weights, beside = whole / ranks + sizes.buffers, sizes.layer if more_passes and ahead.compiled else 0.0
    if ranks > 1:  # two layers in the products' type, and a layer's gradient before it is shared out
        gathered = sizes.layer * ahead.dtype_bytes / ahead.weight_bytes
        weights += min(2, num_layers) * gathered + sizes.outside
        beside = gathered + sizes.layer * FLOAT / ahead.weight_bytes
    if settings.offload != "none":  # gradients leave while the pass goes on
        state, beside = 0.0, 2 * sizes.layer
        final = earlier if more_passes and settings.offload == "optimizer" else 0.0
    if settings.offload == "weights":
        earlier = sizes.outside if more_passes else 0.0
        final, weights = earlier, sizes.outside + min(2, num_layers) * sizes.layer + sizes.buffers
    waits = tied and (more_passes or settings.offload != "none" or ranks > 1)
    return Placement(
        weights=weights,
        optimizer=state / ranks,
        earlier_gradients=earlier,
        all_gradients=final,
        layer_gradient=beside,
        missing_gradient=sizes.layer if settings.offload == "none" and ranks == 1 and not more_passes else 0.0,
        table_gradient=sizes.table if tied or not more_passes else 0.0,
        held_table_gradient=sizes.table if waits else 0.0,
        second_table_gradient=sizes.table if tied or more_passes else 0.0,
    )


def _sizes(decoder: Decoder, num_layers: int, settings: TrainingSettings, ahead: ForwardPass) -> _Sizes:
    entry: OptimizerEntry = registry.load("optimizer", settings.optimizer.address())
    block = decoder.block(0)
    inside = {id(p) for p in block.parameters()} | {id(p) for p in decoder.blocks.parameters()}
    outside = [p for p in decoder.parameters() if id(p) not in inside]
    own = list(block.parameters())
    buffers = _rounded(block.buffers(), ahead) * num_layers + _rounded(decoder.position.buffers(), ahead)
    return _Sizes(
        layer=_rounded(own, ahead),
        outside=_rounded(outside, ahead),
        layer_state=_state(entry, own, ahead),
        outside_state=_state(entry, outside, ahead),
        buffers=buffers,
        table=decoder.head_weight.numel() * ahead.weight_bytes,
    )


def _rounded(tensors: Iterable[Tensor], ahead: ForwardPass) -> float:
    """Return the bytes of tensors as the allocator counts them."""
    block = _BLOCK_BYTES if ahead.accelerator else 1
    return float(sum(-(-tensor.nbytes // block) * block for tensor in tensors))


def _state(entry: OptimizerEntry, parameters: list[nn.Parameter], ahead: ForwardPass) -> float:
    return float(sum(entry.state_bytes(p.shape, p.dtype) for p in parameters if p.requires_grad))
