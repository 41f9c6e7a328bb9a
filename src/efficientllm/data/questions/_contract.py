"""What a reader of questions is: something that gives the same questions, in the same order, every time it is asked.

A reader's file ends with `ENTRY = QuestionsEntry(...)`. A user's own file does the same (`questions: [./mine.py]`); its
`open` may return any object with the three members of `Questions`.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from efficientllm.data.corpora._contract import no_example
from efficientllm.errors import DataError
from efficientllm.records.choice import Scalar

#: How many questions the contract looks at.
_CHECKED_QUESTIONS = 1000


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question, with one right answer.

    Attributes:
        prompt: what the model reads.
        choices: what it chooses from by likelihood, at least two; empty: it answers in its own words.
        right: place of the right choice.
        answer: what its own words must be, where there are no choices.
    """

    prompt: str
    choices: tuple[str, ...] = ()
    right: int = 0
    answer: str = ""

    def right_text(self) -> str:
        """Return the right answer."""
        return self.choices[self.right] if self.choices else self.answer


class Questions(Protocol):
    """Questions in a fixed order."""

    @property
    def details(self) -> dict[str, str]:
        """What a reader of the record should know: path, layout, difficulty."""
        ...

    def questions(self) -> Iterator[Question]:
        """Yield the questions, the same ones in the same order at every call."""
        ...

    def fingerprint(self) -> str:
        """Return a key that changes when the questions may have changed."""
        ...


@dataclass(frozen=True)
class QuestionsEntry:
    """A question reader's entry.

    Attributes:
        title: one line for lists.
        open: called with the recipe's options; raises `DataError` for what cannot be read. What it returns is
            `Questions`, or a task of another harness (`HarnessTask`), which brings its own way to ask.
        example: writes a small set into an empty folder and returns the options that open it; the contract is
            checked on it.
        endings: endings of files that a plain path (`questions: [./a.jsonl]`) hands to this reader.
    """

    title: str
    open: Callable[..., Questions | HarnessTask]
    example: Callable[[Path], dict[str, Scalar]] = no_example
    endings: tuple[str, ...] = ()


@dataclass(frozen=True)
class HarnessTask:
    """A task of lm-evaluation-harness.

    Attributes:
        task: its name there.
        folder: of task files (YAML) that are looked at alone; empty: the harness' own.
        shots: examples before a question; below 0 as the task says.
    """

    task: str
    folder: str = ""
    shots: int = -1


def check_question(question: object, where: str) -> Question:
    """Return what a reader gave, if it is a question that can be judged.

    Raises:
        DataError: it is not.
    """
    if not isinstance(question, Question):
        raise DataError(f"{where} is {type(question).__name__}, not a Question. A reader yields Question.")
    if not question.prompt.strip():
        raise DataError(f"{where}: the question is empty. Mend or drop it.")
    if question.choices:
        _check_choices(question, where)
    elif not question.answer.strip():
        raise DataError(f"{where} has neither choices nor an answer. Give one of them.")
    return question


def first_questions(opened: Questions, most: int, where: str) -> tuple[Question, ...]:
    """Return the first questions of a set, each fit to be judged.

    Raises:
        DataError: one is not, some have choices and some have none, or there is no question at all.
    """
    taken = itertools.islice(opened.questions(), most)
    found = tuple(check_question(q, f"{where}: question {number}") for number, q in enumerate(taken, start=1))
    if not found:
        raise DataError(f"{where} has no question. Give a file with one a line.")
    other = next((number for number, q in enumerate(found, start=1) if bool(q.choices) != bool(found[0].choices)), 0)
    if other:
        raise DataError(f"{where}: question {other} differs from the first in having choices. Make two files of them.")
    return found


def sha256_of(questions: Sequence[Question]) -> str:
    """Return the identity of questions."""
    return hashlib.sha256(msgspec.json.encode(questions)).hexdigest()


def floor_of(questions: Sequence[Question]) -> tuple[float, float]:
    """Return what no skill gets: the mean of 1/choices (0 without choices), and the share of the commonest answer.

    Of questions with choices that is the commonest place of the right one; the model cannot know it, yet a model that
    always prefers the first is as right.

    >>> floor_of([Question(prompt="a", choices=("x", "y"), right=1), Question(prompt="b", choices=("x", "y"), right=1)])
    (0.5, 1.0)
    """
    chance = statistics.fmean(1 / len(q.choices) if q.choices else 0.0 for q in questions)
    answers = Counter(q.right if q.choices else q.answer.strip() for q in questions)
    return chance, answers.most_common(1)[0][1] / len(questions)


def problems(entry: QuestionsEntry, folder: Path) -> list[str]:
    """Return what a reader does wrong, one sentence each; an empty list means that it keeps the contract.

    Args:
        entry: the reader.
        folder: an empty folder for its example.
    """
    options = entry.example(folder)
    first, second = entry.open(**options), entry.open(**options)
    if isinstance(first, HarnessTask) or isinstance(second, HarnessTask):
        return [] if first == second else ["opened again, it is another task"]
    found, questions = [], _beginning(first)
    try:
        first_questions(first, _CHECKED_QUESTIONS, "the example")
    except DataError as error:
        found.append(str(error))
    if _beginning(first) != questions:
        found.append("a second reading gives other questions")
    if _beginning(second) != questions:
        found.append("opened again, the data gives other questions")
    if first.fingerprint() != second.fingerprint():
        found.append("fingerprint: opened again, the data has another one")
    if not all(isinstance(part, str) for item in first.details.items() for part in item):
        found.append("details: keys and values must be text")
    return found


def _beginning(opened: Questions) -> list[Question]:
    return list(itertools.islice(opened.questions(), _CHECKED_QUESTIONS))


def _check_choices(question: Question, where: str) -> None:
    if len(question.choices) < 2:
        raise DataError(f"{where} has one choice. Give at least two, or an answer alone.")
    if not 0 <= question.right < len(question.choices):
        raise DataError(
            f"{where}: answer {question.right} names none of its {len(question.choices)} choices. Count from 0."
        )
    if not all(choice.strip() for choice in question.choices):
        raise DataError(f"{where}: a choice is empty. Mend or drop the question.")
    if len(set(question.choices)) < len(question.choices):
        raise DataError(f"{where}: two choices are the same. Mend or drop the question.")
