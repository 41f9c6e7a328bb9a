"""The order in which training sees the text: a function of the seed alone, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainOrder:
    """Rows of a token file in a new permutation each epoch, dealt out to ranks without overlap or gap.

    The rows of all ranks at one step are the same whether one rank or several take them, so a run on two devices sees
    the batches of a run on one with twice the rows. A step may begin in one epoch and end in the next.

    Args:
        num_tokens: tokens in the file.
        sequence_tokens: targets in a row; rows do not overlap (the last target of one is the first input of the next).
        seed: of the permutations.
        rank, world: which share of each step, of how many.
    """

    num_tokens: int
    sequence_tokens: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} is not one of {self.world}")
        if self.rows_per_epoch < 1:
            raise ValueError(f"{self.num_tokens} tokens hold no row of {self.sequence_tokens} and its last target")

    @property
    def rows_per_epoch(self) -> int:
        """Rows in the file; fewer than `sequence_tokens` tokens at its end are in none.

        >>> TrainOrder(num_tokens=101, sequence_tokens=10, seed=0).rows_per_epoch
        10
        """
        return (self.num_tokens - 1) // self.sequence_tokens

    def rows(self, step: int, rows_per_step: int) -> Offsets:
        """Return where this rank's rows of a step begin in the file: int64, shape [rows_per_step].

        Any step can be asked for, so that a resumed run goes on exactly where it ended.

        Args:
            step: from 0.
            rows_per_step: rows that each rank takes in a step.
        """
        first = (step * self.world + self.rank) * rows_per_step
        starts = permuted_places(self.rows_per_epoch, self.seed, first, rows_per_step)
        return starts * self.sequence_tokens

    def __iter__(self) -> Iterator[int]:
        """Yield row starts without end, as steps of one row a rank would take them."""
        step = 0
        while True:
            yield int(self.rows(step, 1)[0])
            step += 1


def permuted_places(count: int, seed: int, first: int, num: int) -> Offsets:
    """Return `num` numbers below `count`, from the `first` on, of one permutation after another, an epoch each.

    >>> permuted_places(6, seed=0, first=4, num=4).tolist()
    [3, 1, 4, 1]
    """
    epochs, within = np.divmod(np.arange(first, first + num, dtype=np.int64), count)
    places = np.empty(num, dtype=np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        places[here] = permutation(count, seed, epoch)[within[here]]
    return places


@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> Offsets:
    """Return a permutation of `range(count)`: the order of SplitMix64's outputs (Steele et al. 2014).

    Integer arithmetic alone, because numpy promises no stream of its generators across versions.

    >>> permutation(6, seed=0, epoch=0).tolist(), permutation(6, seed=0, epoch=1).tolist()
    ([0, 2, 5, 4, 3, 1], [4, 1, 5, 0, 3, 2])
    """
    start = _mix(_mix(seed & _MASK) + epoch & _MASK)
    with np.errstate(over="ignore"):
        state = np.uint64(start) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    order = np.argsort(state)  # the outputs differ, so that every sort gives this order
    order.flags.writeable = False
    return order


def _mix(value: int) -> int:
    """One output of SplitMix64 for the state `value`, in plain integers."""
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
