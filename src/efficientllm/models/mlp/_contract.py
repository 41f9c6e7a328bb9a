"""What a feed-forward layer is: the part of a block in which each token is on its own.

Letters as in `models/mixers/_contract.py`, and in this folder:

    M  tokens of all rows, B * T    E  experts    A  experts that one token uses    P  (token, expert) pairs, M * A

An mlp of your own: subclass `Mlp`, end the file with `ENTRY = MlpEntry(card=..., build=...)`, and run
`efficientllm check my_mlp.py`, which calls the checks of `_checks.py` that every mlp of this folder passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from efficientllm.models.linear import num_parameters
from efficientllm.models.part import Part
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class LoadTally(NamedTuple):
    """What a layer with experts counted over some training steps, on the host.

    Attributes:
        tokens: by expert, how many tokens it served.
        entropy_nats: mean entropy of the router's distribution over the experts; NaN before the first step.
    """

    tokens: tuple[int, ...]
    entropy_nats: float


class Mlp(Part):
    """A feed-forward layer."""

    shape: Shape

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the residual stream, BTD."""
        raise NotImplementedError

    def reference(self, x_BTD: Tensor) -> Tensor:
        """Return the same as `forward` in the plainest form; `forward` itself where that is plain already."""
        out_BTD: Tensor = self(x_BTD)
        return out_BTD

    def model_flops(self, num_tokens: int) -> float:
        """Return the floating-point operations of so many tokens: what the model needs, active parts only."""
        raise NotImplementedError

    def reference_flops(self, num_tokens: int) -> float:
        """Return the operations that `reference` executes, as torch's counter counts them."""
        return self.model_flops(num_tokens)

    def num_parameters(self) -> int:
        """Return how many parameters it stores."""
        return num_parameters(self)

    def num_active_parameters(self) -> int:
        """Return how many of them one token uses."""
        return self.num_parameters()

    def read_parameters(self, num_tokens: int) -> float:
        """Return the fewest parameters that must be read to serve so many tokens; expected where the tokens decide."""
        return self.num_parameters()

    def step_load(self) -> Tensor | None:
        """Return the tokens of each expert since the last `after_step`, E on the device; None without experts."""
        return None

    def load_tally(self) -> LoadTally | None:
        """Return what was counted since `reset_load`, up to the last `after_step`; reads the device."""
        return None

    def reset_load(self) -> None:
        """Count from here on."""

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
