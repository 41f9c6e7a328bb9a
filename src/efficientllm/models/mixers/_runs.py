"""Packed rows: which neighbouring tokens belong to one sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.position._contract import Positions


@dataclass(frozen=True)
class Runs:
    """Runs of equal sequence ids; each is a sequence of its own, also where an id comes back later.

    Attributes:
        numbers_BT: 0 for the tokens of a row's first run, 1 for those of its second …
        positions: of the same forward pass; holds what all layers share.
    """

    numbers_BT: Tensor  # noqa: N815 - a shape suffix
    positions: Positions

    @classmethod
    def of(cls, sequence_ids_BT: Tensor | None, positions: Positions) -> Runs | None:
        """Return the runs of these ids, or None where rows are not packed."""
        if sequence_ids_BT is None:
            return None
        numbers_BT = positions.once("runs", lambda: _starts(sequence_ids_BT).cumsum(-1))
        assert numbers_BT is not None
        return cls(numbers_BT, positions)

    def together(self, distance: int) -> Tensor:
        """Return whether each token and the one so far before it are of one run; BT."""
        return F.pad(self.numbers_BT[:, distance:] == self.numbers_BT[:, : -distance or None], (distance, 0))

    def bounds(self, batch: int) -> Tensor:
        """Return where runs begin and end once all rows lie in one; the number of runs makes the device wait."""

        def make() -> Tensor:
            starts_BT = F.pad(_starts(self.numbers_BT)[:, 1:], (1, 0), value=True).expand(batch, -1)
            return F.pad(starts_BT.flatten().nonzero()[:, 0], (0, 1), value=starts_BT.numel())

        bounds = self.positions.once(("run bounds", batch), make)
        assert bounds is not None
        return bounds


def _starts(ids_BT: Tensor) -> Tensor:
    return F.pad(ids_BT[:, 1:] != ids_BT[:, :-1], (1, 0))


def in_one_row(x_BT: Tensor) -> Tensor:
    """Return B, T, more… as 1, B * T, more…."""
    return x_BT.flatten(0, 1)[None]


def last_tokens(before: Tensor, x_BTX: Tensor) -> Tensor:
    """Return the last tokens of `before` and x together, as many as `before` holds."""
    num_kept, new = before.shape[1], x_BTX.shape[1]
    return x_BTX[:, new - num_kept :] if new >= num_kept else torch.cat((before[:, new:], x_BTX), 1)
