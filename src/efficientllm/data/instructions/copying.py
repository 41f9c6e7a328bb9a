"""Copying a row of letters, generated: the longer, the harder."""

from __future__ import annotations

import string

from efficientllm.data.instructions._contract import Instructions, InstructionsEntry
from efficientllm.data.instructions._tasks import Draws, Tasks, within

_LETTERS = string.ascii_lowercase


def open_copying(length: int = 8, samples: int = 20_000, seed: int = 0) -> Instructions:
    """Open the task.

    Args:
        length: letters in a row.
        samples: rows in both splits.
        seed: of the draws.

    Raises:
        DataError: an option out of its bounds.
    """
    within("copying", "length", length, 2, 10_000)
    within("copying", "samples", samples, 20, 10_000_000)

    def make(draws: Draws) -> tuple[str, str]:
        letters = " ".join(_LETTERS[draws.below(len(_LETTERS))] for _ in range(length))
        return f"Copy: {letters}", letters

    return Tasks("copying", {"length": length}, make, samples, seed)


ENTRY = InstructionsEntry(title="Copying `length` letters, generated", open=open_copying)
