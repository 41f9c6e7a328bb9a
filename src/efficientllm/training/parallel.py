"""One model trained by several ranks, its weights sharded by FSDP2, with the arithmetic of a single process.

    matrices     (dense and stacked layers, tables)  a rank holds its share; gathered for a layer's forward and backward
                 pass, their gradients summed into the shares
    small ones   (gains, biases of their own, routers, decays)  every rank holds all; gradients are averaged in one go

Where a single process computes under autocast, it casts matrices for each product and nothing else. So matrices are
gathered in autocast's type, which is the same product at half the traffic; the small ones stay in float32, which
FSDP's own policy, one type a layer, would round. Autocast stays on for what lies between.

Order of wrapping: recompute and compile, which are a block's own (`blocks.py`), then sharding around them.
Source: FSDP2, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html; ZeRO stage 3, arXiv:1910.02054.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from efficientllm.models.decoder import Decoder
from efficientllm.models.linear import Embedding, Linear, StackedLinear
from efficientllm.models.part import Chooser
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.ranks import Ranks

#: As torch's own clipping adds it to the norm.
_CLIP_EPSILON = 1e-6

#: What is called from outside instead of the decoder's `forward`; around it the weights outside of layers are gathered.
_ENTRANCES = ("losses", "loss_sum")


class Shards:
    """A decoder's place among the ranks that train it; with one rank every method does what a single process does.

    Args:
        decoder: with its first weights whole on this rank's device, the same on every rank: they are drawn by name
            from the seed, and only then shared out. A model must fit into a device once, without its gradients.
        settings: of the training.
        ranks: this one and how many.
    """

    def __init__(self, decoder: Decoder, settings: TrainingSettings, ranks: Ranks) -> None:
        self.decoder, self.ranks = decoder, ranks
        self._whole: list[nn.Parameter] = []
        if not ranks.alone:
            matrices = {id(parameter) for parameter in _matrices(decoder)}
            self._whole = [p for p in decoder.parameters() if id(p) not in matrices]
            _shard(decoder, settings, ranks, set(self._whole))

    def before_pass(self, *, last: bool) -> None:
        """Say whether the coming backward pass is the step's last: only that one sums gradients over ranks."""
        if not self.ranks.alone:
            self.decoder.set_requires_gradient_sync(last)  # type: ignore[operator] # FSDP2 mixes it into the module

    def after_passes(self, clip_norm: float) -> None:
        """Average the small ones' gradients over ranks, sum what the parts counted in this step, and clip (0: not)."""
        if self.ranks.alone:
            return
        trained = [parameter for parameter in self._whole if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # a rank that did not use it
                parameter.grad = torch.zeros_like(parameter)
        _together([p.grad for p in trained if p.grad is not None], self.ranks.mean_)
        _together([count for part in self.decoder.parts() for count in part.step_counts()], self.ranks.sum_)
        if clip_norm:
            self._clip(clip_norm)

    def _clip(self, max_norm: float) -> None:
        """Scale all gradients down to a global norm, taken over the shares of all ranks."""
        shares = [local(p.grad) for p in self.decoder.parameters() if p.grad is not None and is_share(p)]
        wholes = [p.grad for p in self._whole if p.grad is not None]
        squares = self.ranks.sum_(_squares(shares, self.decoder.device)) + _squares(wholes, self.decoder.device)
        scale = (max_norm / (squares.sqrt() + _CLIP_EPSILON)).clamp(max=1.0).float()
        for gradients in (shares, wholes):
            if gradients:
                torch._foreach_mul_(gradients, scale)

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Return name -> whole parameter in the host's memory, on rank 0; None on the others, which must call it too.

        With one rank the parameters themselves.
        """
        if self.ranks.alone:
            return {name: parameter.detach() for name, parameter in self.decoder.named_parameters()}
        found = {}
        for name, parameter in self.decoder.named_parameters():
            gathered = parameter.full_tensor() if is_share(parameter) else parameter  # type: ignore[attr-defined]
            if self.ranks.rank == 0:
                found[name] = gathered.detach().cpu()
        return found if self.ranks.rank == 0 else None


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is this rank's share of one that lies over several."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return this rank's share of a sharded tensor; any other tensor itself."""
    share: Tensor = tensor.to_local() if is_share(tensor) else tensor  # type: ignore[attr-defined]
    return share


def _shard(decoder: Decoder, settings: TrainingSettings, ranks: Ranks, whole: set[nn.Parameter]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(decoder.device.type, (ranks.world,))
    casts = settings.dtype != str(decoder.dtype).removeprefix("torch.")
    in_blocks = MixedPrecisionPolicy(
        param_dtype=getattr(torch, settings.dtype) if casts else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # the residual stream keeps the type that it has in a single process
    )
    outside = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    shared: dict[str, Any] = {"mesh": mesh, "ignored_params": whole, "shard_placement_fn": _placement(ranks.world)}
    for number in range(decoder.shape.num_layers):
        fully_shard(decoder.block(number), mp_policy=in_blocks, **shared)
    fully_shard(decoder, mp_policy=outside, **shared)
    for name in _ENTRANCES:
        register_fsdp_forward_method(decoder, name)
    evaluate = decoder.loss_sum

    def loss_sum(*given: Tensor) -> tuple[Tensor, Tensor]:
        found = evaluate(*given)
        decoder.reshard()  # type: ignore[operator] # no backward pass follows, which would do it
        return found

    decoder.loss_sum = loss_sum  # type: ignore[method-assign, assignment]


def _matrices(decoder: Decoder) -> list[nn.Parameter]:
    """Return the parameters that are shared out: those that autocast casts for a product, and the tables."""
    routers = {id(part) for chooser in decoder.modules() if isinstance(chooser, Chooser) for part in chooser.modules()}
    layers = [part for part in decoder.modules() if isinstance(part, Linear | StackedLinear | Embedding)]
    return [parameter for part in layers if id(part) not in routers for parameter in part.parameters(recurse=False)]


def _placement(world: int) -> Any:
    """Return how a parameter is cut: along its rows, but stacked layers that do not go round along their outputs."""
    from torch.distributed.tensor import Shard

    def cut(parameter: nn.Parameter) -> Any:
        goes_round = parameter.dim() < 3 or parameter.shape[0] % world == 0 or parameter.shape[1] % world
        return Shard(0 if goes_round else 1)

    return cut


def _squares(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return the sum of squares of all numbers, a float32 scalar."""
    if not tensors:
        return torch.zeros((), device=device)
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float32)
    return torch.stack(list(norms)).square().sum()


def _together(tensors: list[Tensor], reduce_: Any) -> None:
    """Reduce many small tensors over ranks by one call for each of their types, in place."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in same])
        reduce_(flat)
        for tensor, piece in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(piece.view_as(tensor))
