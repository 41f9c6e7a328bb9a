"""Learned positions: a trained vector for each place, added to the token vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.errors import UserError
from efficientllm.models.linear import Embedding
from efficientllm.models.position._contract import Position, PositionEntry
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class LearnedPosition(Position):
    """Adds row `position` of a table of `shape.max_positions` rows (or of the option of that name).

    There is nothing beyond the last row. Decoder and engine refuse longer texts (`check_length`); a position that has
    no row and that only the device knows of, in a captured step, makes its token NaN rather than a wrong vector.
    """

    absolute = True

    def __init__(self, shape: Shape, rotary_dim: int, max_positions: int | None = None) -> None:
        super().__init__()
        rows = shape.max_positions if max_positions is None else max_positions
        if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= 2**24:
            raise UserError(f"option max_positions of position learned is {rows!r}. Give a whole number of tokens.")
        self.max_positions = rows
        self.table = Embedding(rows, shape.width)

    def embed(self, x_BTD: Tensor, index_BT: Tensor) -> Tensor:
        """Return the token vectors with their rows added."""
        rows_BTD = F.embedding(index_BT.clamp(max=self.max_positions - 1), self.table.weight)
        rows_BTD = rows_BTD.masked_fill((index_BT >= self.max_positions)[..., None], torch.nan)
        return x_BTD + rows_BTD.to(x_BTD.dtype)

    def read_parameters(self, num_positions: int) -> int:
        """Return the rows of so many positions."""
        return min(num_positions, self.max_positions) * self.table.embedding_dim


ENTRY = PositionEntry(
    card=Card(
        title="Learned absolute positions",
        source="arXiv:1810.04805",
        improves=("compute",),
        costs=("memory", "quality"),
        note="against rope; the table costs parameters, and no text may be longer than it",
    ),
    build=LearnedPosition,
)
