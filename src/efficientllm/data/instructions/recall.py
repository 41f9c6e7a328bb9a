"""Recall of the value of one key among several, generated: the more pairs, the harder."""

from __future__ import annotations

import string

from efficientllm.data.instructions._contract import Instructions, InstructionsEntry
from efficientllm.data.instructions._tasks import Draws, Tasks, within

_LETTERS = string.ascii_lowercase


def open_recall(num_pairs: int = 4, samples: int = 20_000, seed: int = 0) -> Instructions:
    """Open the task: keys of two letters, values of two digits.

    Args:
        num_pairs: keys with a value.
        samples: questions in both splits.
        seed: of the draws.

    Raises:
        DataError: an option out of its bounds.
    """
    within("recall", "num_pairs", num_pairs, 1, len(_LETTERS) ** 2)
    within("recall", "samples", samples, 20, 10_000_000)

    def make(draws: Draws) -> tuple[str, str]:
        keys = [_LETTERS[n // 26] + _LETTERS[n % 26] for n in draws.distinct(num_pairs, len(_LETTERS) ** 2)]
        values = [10 + draws.below(90) for _ in keys]
        asked = draws.below(num_pairs)
        told = ", ".join(f"{key} is {value}" for key, value in zip(keys, values, strict=True))
        return f"{told}. What is {keys[asked]}?", str(values[asked])

    return Tasks("recall", {"num_pairs": num_pairs}, make, samples, seed)


ENTRY = InstructionsEntry(title="The value of one of `num_pairs` keys, generated", open=open_recall)
