"""The held-out questions of a generated task, as questions that are answered in one's own words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from efficientllm.data.instructions._contract import Instructions
from efficientllm.data.questions._contract import Question
from efficientllm.records.choice import Scalar


class Generated:
    """Questions that no training sample of the same task and seed asks."""

    def __init__(self, instructions: Instructions) -> None:
        self._instructions = instructions

    @property
    def details(self) -> dict[str, str]:
        """The task's difficulty and seed."""
        return self._instructions.details

    def questions(self) -> Iterator[Question]:
        """Yield the held-out ones in the order in which they are drawn."""
        for sample in self._instructions.samples("heldout"):
            yield Question(prompt=sample.messages[-2].content, answer=sample.answer or sample.messages[-1].content)

    def fingerprint(self) -> str:
        """Return what decides about the questions."""
        return self._instructions.fingerprint()


def generated(open_instructions: Callable[..., Instructions]) -> Callable[..., Generated]:
    """Return what opens the questions of a task, with the options of its instruction data."""

    @functools.wraps(open_instructions)
    def opened(**options: Scalar) -> Generated:
        return Generated(open_instructions(**options))

    return opened
