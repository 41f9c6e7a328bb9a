"""What a position encoding is: three hooks, each of which may do nothing.

    embed       adds to the token vectors, before the first layer           (learned or sinusoidal absolute positions)
    rotate      turns queries and keys, in each layer                       (rope)
    score_bias  adds to the attention scores, in each layer                 (relative biases)

An encoding of your own: subclass `Position`, end the file with `ENTRY = PositionEntry(card=..., build=...)`, and run
`efficientllm check my_position.py`, which calls the checks of `_checks.py` that every encoding of this folder passes.
Tables that are trained are our `Embedding` (linear.py): it is drawn from the seed, by its own name.

The decoder asks `at(index_BT, dtype)` once a forward pass and hands the `Positions` it gets to all layers, so that what
is the same for all of them (angles, masks) is computed once.

Letters as in `models/mixers/_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from efficientllm.errors import Unsupported
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import num_parameters
from efficientllm.records.card import Card


class Position(nn.Module):
    """A position encoding; the base class encodes nothing.

    Attributes:
        biases_scores: whether `score_bias` returns something; a mixer that cannot add it refuses in `supports`.
        rotates: whether `rotate` turns queries and keys; a mixer that has none refuses in `supports`.
        family: whether Llama-family checkpoints have this encoding.
        absolute: whether a text reads differently when all its positions move on by the same number.
        max_positions: how many positions there are; 0 = no end.
    """

    biases_scores = False
    rotates = False
    family = False
    absolute = False
    max_positions: int = 0

    def embed(self, x_BTD: Tensor, index_BT: Tensor) -> Tensor:
        """Return the token vectors with their positions added."""
        return x_BTD

    def prepare(self, index_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return what `rotate` needs, computed once a forward pass."""
        return ()

    def rotate(self, q_BNTH: Tensor, k_BKTH: Tensor, prepared: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return queries and keys of the same tokens, turned by their positions."""
        return q_BNTH, k_BKTH

    def score_bias(self, index_BT: Tensor, key_index_BS: Tensor) -> Tensor | None:
        """Return what is added to the scaled scores, broadcastable to BNTS, or None."""
        return None

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return what is made of it once a training pass and kept for the backward pass, all layers together."""
        return 0.0

    def restore(self) -> None:
        """Make again what a cast would blur or a move would lose: buffers that no checkpoint holds."""

    def check_length(self, num_tokens: int) -> None:
        """Refuse a sequence that is longer than the positions reach.

        Raises:
            Unsupported: it is.
        """
        if self.max_positions and num_tokens > self.max_positions:
            raise Unsupported(
                f"{num_tokens} tokens exceed the {self.max_positions} positions that there are: "
                "raise shape.max_positions or choose a position encoding without an end"
            )

    def num_parameters(self) -> int:
        """Return how many parameters it stores."""
        return num_parameters(self)

    def read_parameters(self, num_positions: int) -> int:
        """Return the fewest parameters that must be read to serve so many different positions."""
        return self.num_parameters()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast the module, then make its tables again."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.restore()
        return self

    def at(self, index_BT: Tensor, dtype: torch.dtype, most_sequences: int = 0) -> Positions:
        """Return the hooks bound to these positions, with numbers of `dtype`, for one forward pass."""
        return Positions(index_BT, self, self.prepare(index_BT, dtype), most_sequences)


@dataclass
class Positions:
    """Where the tokens of one forward pass stand, with the encoding's hooks bound to it.

    Attributes:
        index_BT: position of each token, on the device; one row if all rows are alike.
        most_sequences: packed rows together have no more sequences than this, known without the device; 0 = not known.
    """

    index_BT: Tensor  # noqa: N815 - a shape suffix
    encoding: Position
    prepared: tuple[Tensor, ...] = ()
    most_sequences: int = 0
    _made: dict[Hashable, Tensor | None] = field(default_factory=dict)

    def rotate(self, q_BNTH: Tensor, k_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys turned by their positions."""
        return self.encoding.rotate(q_BNTH, k_BKTH, self.prepared)

    def score_bias(self, key_index_BS: Tensor) -> Tensor | None:
        """Return what is added to the scaled scores, broadcastable to BNTS, or None."""
        return self.encoding.score_bias(self.index_BT, key_index_BS)

    def once(self, key: Hashable, make: Callable[[], Tensor | None]) -> Tensor | None:
        """Return `make()`, computed by the first layer that asks and shared with the others (masks)."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class PositionEntry:
    """A position encoding's entry: `build(shape, rotary_dim, **options)`; the mixer turns `rotary_dim` of a head.

    `build` raises `Unsupported`, with the reason, for a shape that it cannot serve.
    """

    card: Card
    build: Callable[..., Position]


def positions_of(encoding: Position, num_tokens: int, device: torch.device | str = "cpu") -> Positions:
    """Return float32 positions 0 … num_tokens - 1 of one row."""
    return encoding.at(torch.arange(num_tokens, device=device)[None], torch.float32)
