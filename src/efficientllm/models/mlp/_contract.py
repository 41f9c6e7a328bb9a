"""What a feed-forward layer is: the part of a block in which each token is on its own.

Letters as in `models/mixers/_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from efficientllm.models.linear import num_parameters
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class Mlp(nn.Module):
    """A feed-forward layer."""

    shape: Shape

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the residual stream, BTD."""
        raise NotImplementedError

    def model_flops(self, num_tokens: int) -> float:
        """Return the floating-point operations of so many tokens: what the model needs, active parts only."""
        raise NotImplementedError

    def reference_flops(self, num_tokens: int) -> float:
        """Return the operations executed, as torch's counter counts them."""
        return self.model_flops(num_tokens)

    def num_parameters(self) -> int:
        """Return how many parameters it stores."""
        return num_parameters(self)

    def num_active_parameters(self) -> int:
        """Return how many of them one token uses."""
        return self.num_parameters()

    def read_parameters(self, num_tokens: int) -> int:
        """Return the fewest parameters that must be read to serve so many tokens."""
        return self.num_parameters()

    def checkpoint_names(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Return own parameter -> (name in a Llama-family layer, rows) of its parts; empty if it has no such form."""
        return {}


def _anything_goes(shape: Shape) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class MlpEntry:
    """A feed-forward layer's entry.

    Attributes:
        card: the technique's claim.
        build: `build(shape, **options)` returns the layer; its keyword parameters are the options a recipe can set.
        supports: raises `Unsupported`, with the reason, for a shape that it cannot serve.
    """

    card: Card
    build: Callable[..., Mlp]
    supports: Callable[[Shape], None] = _anything_goes
