"""A generator of learnable tasks: for models too small for public suites, with a difficulty that can be chosen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from efficientllm.data.corpora._contract import Split
from efficientllm.data.corpora._files import is_heldout
from efficientllm.data.instructions._contract import Sample, pair, prompt_of
from efficientllm.errors import DataError

#: After so many prompts in a row that were there before, a task has no more of them.
_PATIENCE = 1000


class Draws:
    """Numbers that depend on the seed alone: Python promises the stream of `random()`, not of its other methods.

    >>> draws = Draws(0)
    >>> [draws.below(10) for _ in range(5)]
    [8, 7, 4, 2, 5]
    """

    def __init__(self, seed: int) -> None:
        self._next = random.Random(seed).random

    def below(self, count: int) -> int:
        """Return a number from 0 to `count` - 1."""
        return int(self._next() * count)

    def distinct(self, num: int, count: int) -> list[int]:
        """Return `num` different numbers below `count`, in the order in which they were drawn."""
        places = list(range(count))
        return [places.pop(self.below(len(places))) for _ in range(num)]


@dataclass(frozen=True)
class Tasks:
    """Questions of one kind, all different; a tenth of them is held out, by the hash of the question.

    Attributes:
        name: the task.
        options: what its difficulty is.
        make: gives a question and its answer.
        num_samples: questions in both splits; fewer if there are no more.
        seed: of the draws.
    """

    name: str
    options: dict[str, int]
    make: Callable[[Draws], tuple[str, str]]
    num_samples: int
    seed: int

    @property
    def details(self) -> dict[str, str]:
        """The difficulty and the seed."""
        return {"layout": self.name, **{key: str(value) for key, value in self.options.items()}, "seed": str(self.seed)}

    def samples(self, split: Split) -> Iterator[Sample]:
        """Yield the questions of a split in the order in which they are drawn."""
        for sample in self._all():
            if is_heldout(prompt_of(sample).encode()) == (split == "heldout"):
                yield sample

    def fingerprint(self) -> str:
        """Return what decides about the questions."""
        return f"{self.name} {sorted(self.options.items())} {self.num_samples} {self.seed}"

    def _all(self) -> Iterator[Sample]:
        draws, seen, known_in_a_row = Draws(self.seed), set[str](), 0
        while len(seen) < self.num_samples and known_in_a_row < _PATIENCE:
            question, answer = self.make(draws)
            known_in_a_row = known_in_a_row + 1 if question in seen else 0
            if not known_in_a_row:
                seen.add(question)
                yield pair(question, answer)


def within(task: str, option: str, value: int, least: int, most: int) -> int:
    """Return an option's value.

    Raises:
        DataError: it is out of its bounds.
    """
    if not least <= value <= most:
        raise DataError(f"instructions {task}: {option} {value} is not between {least} and {most}.")
    return value
