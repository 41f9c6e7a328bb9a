"""Dense layers, alone and stacked, and the embedding, without torch's own first draw: `initial.py` draws them once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from efficientllm.precision._contract import PackedLinear, packed_bytes


class Linear(nn.Linear):
    """A dense layer whose weights are empty until `initial.initialise` or a checkpoint fills them.

    Attributes:
        writes_residual: whether the result is added to the residual stream; its first weights are then smaller.
        makes_logits: whether the result is logits; its first weights then shrink with the width.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        writes_residual: bool = False,
        makes_logits: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.writes_residual, self.makes_logits = writes_residual, makes_logits

    def reset_parameters(self) -> None:
        """Leave the weights empty."""

    def flops_per_token(self) -> float:
        """Return the floating-point operations of one token: two for each weight."""
        return 2.0 * self.in_features * self.out_features


class Factors(NamedTuple):
    """A dense layer whose matrix has a correction of low rank: `finish(weight x + up (down x))`.

    A layer of a kind of its own may have a method `factors()` that returns them, or None where they do not tell all.

    Attributes:
        weight: `[out_features, in_features]`, frozen.
        down: `[rank, in_features]`.
        up: `[out_features, rank]`.
        finish: what is left to do with the sum.
        spare: which room the weight has for a factor beside it (`precision/_low_rank_product.py`); empty: none.
    """

    weight: Tensor
    down: Tensor
    up: Tensor
    finish: Callable[[Tensor], Tensor]
    spare: str = ""


def factors_of(layer: nn.Module) -> Factors | None:
    """Return a layer's factors, None where it has none or does not say so."""
    found: Factors | None = layer.factors() if hasattr(layer, "factors") else None  # type: ignore[operator]
    return found


class StackedLinear(nn.Module):
    """Equal dense layers in one parameter, one for each expert; empty until it is filled.

    Attributes:
        weight: `[num_layers, out_features, in_features]`.
        writes_residual: as in `Linear`.
    """

    def __init__(self, num_layers: int, in_features: int, out_features: int, *, writes_residual: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.writes_residual = in_features, out_features, writes_residual
        self.weight = nn.Parameter(torch.empty(num_layers, out_features, in_features))

    def flops_per_token(self) -> float:
        """Return the floating-point operations of one token in one layer: two for each weight."""
        return 2.0 * self.in_features * self.out_features


class Embedding(nn.Embedding):
    """A table of token vectors, empty until it is filled."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)

    def reset_parameters(self) -> None:
        """Leave the table empty."""


def stored_bytes(module: nn.Module, *, trained_only: bool = False) -> int:
    """Return the bytes of a module's weights, each storage once; of a parameter that lies over ranks, all its shares.

    Matrices of low precision count with what they take, scales included.

    Args:
        module: the module.
        trained_only: whether frozen weights are left out.
    """
    parameters = (p for p in module.parameters() if p.requires_grad or not trained_only)
    stored = [parameter for parameter in parameters if parameter.device.type != "meta"]
    # a share may be empty, and then has no storage to tell it by
    shares = sum(parameter.nbytes for parameter in stored if hasattr(parameter, "to_local"))
    held = {p.untyped_storage()._cdata: p.nbytes for p in stored if not hasattr(p, "to_local")}
    return shares + sum(held.values()) + (0 if trained_only else packed_bytes(module))


def num_parameters(module: nn.Module) -> int:
    """Return how many weights a module stores, shared ones once, in whatever precision."""
    packed = (part for part in module.modules() if isinstance(part, PackedLinear))
    return sum(part.in_features * part.out_features for part in packed) + sum(p.numel() for p in module.parameters())


def is_low_precision(dtype: torch.dtype) -> bool:
    """Whether sums in this type lose too much, so that norms and softmax are taken in float32."""
    return dtype in (torch.bfloat16, torch.float16)
