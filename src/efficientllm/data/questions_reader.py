"""From a recipe's choice to opened questions."""

from __future__ import annotations

from efficientllm.data.corpus import find_reader
from efficientllm.data.questions._contract import HarnessTask, Questions, first_questions
from efficientllm.records.choice import Choice


def open_questions(choice: Choice) -> Questions | HarnessTask:
    """Open the questions that a recipe chose: an entry's, a user's own reader's, or those of a plain path.

    Raises:
        UnknownNameError: no such reader.
        DataError: a path that does not exist, or an option that the reader does not take.
    """
    opened: Questions | HarnessTask = find_reader(choice, "questions").open()
    return opened


def check_questions(choice: Choice) -> None:
    """Open questions and read the first: cheap, for before any trial is run.

    Raises:
        UserError: whatever keeps them from being read, in one line.
    """
    opened = open_questions(choice)
    if not isinstance(opened, HarnessTask):
        first_questions(opened, 1, f"questions {choice.label()}")
