"""From a recipe's choice to questions: which are asked, and which stand before them with their answers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

from efficientllm import registry
from efficientllm.data.corpus import find_reader
from efficientllm.data.questions._contract import HarnessTask, Question, Questions, first_questions
from efficientllm.errors import DataError
from efficientllm.records.choice import Choice

#: The option of any questions that says how many examples stand before each; lm_eval has one of its own.
_SHOTS = "shots"


@dataclass(frozen=True)
class Asked:
    """Questions of one set.

    Attributes:
        questions: what is asked and scored.
        examples: what stands with its answers before each of them; none is asked itself.
    """

    questions: tuple[Question, ...]
    examples: tuple[Question, ...] = ()


def open_questions(choice: Choice) -> Questions | HarnessTask:
    """Open the questions that a recipe chose: an entry's, a user's own reader's, or those of a plain path.

    Raises:
        UnknownNameError: no such reader.
        DataError: a path that does not exist, or an option that the reader does not take.
    """
    reader = find_reader(choice, "questions")
    if _SHOTS not in inspect.signature(registry.load(reader.kind, reader.address).open).parameters:
        reader = replace(reader, options={key: value for key, value in reader.options.items() if key != _SHOTS})
    opened: Questions | HarnessTask = reader.open()
    return opened


def shots_of(choice: Choice) -> int:
    """Return how many examples a set of our own has before each question.

    Raises:
        DataError: no whole number from 0.

    >>> shots_of(Choice(name="arithmetic", options={"shots": 3}))
    3
    """
    shots = choice.options.get(_SHOTS, 0)
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 0:
        raise DataError(f"questions {choice.name}: shots: expected a whole number from 0, got {shots!r}.")
    return shots


def asked_of(opened: Questions, choice: Choice, most: int) -> Asked:
    """Return the first questions of a set that are no examples; those are the first `shots` of all, for every question.

    Raises:
        DataError: a question that cannot be judged, or nothing that is left to ask.
    """
    where, shots = f"questions {choice.label()}", shots_of(choice)
    found = first_questions(opened, shots + most, where)
    examples = found[:shots]
    questions = tuple(question for question in found[shots:] if question not in examples)
    if not questions:
        raise DataError(f"{where}: {shots} shots leave none of its {len(found)} questions to ask. Lower shots.")
    return Asked(questions, examples)


def check_questions(choice: Choice, most: int = 1) -> None:
    """Open questions and read those that would be asked: for before any trial is run.

    Raises:
        UserError: whatever keeps them from being read, in one line.
    """
    opened = open_questions(choice)
    if not isinstance(opened, HarnessTask):
        asked_of(opened, choice, most)
