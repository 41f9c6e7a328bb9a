"""How a record holds a question: which key has the question, which the choices, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efficientllm.data.questions._contract import Question, check_question
from efficientllm.errors import DataError

#: Keys that are looked for, the preferred one first.
_PROMPTS = ("question", "prompt", "query", "input", "context", "ctx")
_CHOICES = ("choices", "options", "endings")
_ANSWERS = ("answer", "answerKey", "label", "gold", "target", "response", "output")


def question_of(record: object, where: str) -> Question:
    """Return the question of a record.

    With choices the answer is their place from 0, or a letter (`B`), or the text of one of them; without, it is the
    text that the model's own words must be. Choices may be a list, or `{"text": […], "label": […]}`.

    Raises:
        DataError: it holds none, or its answer is none of its choices.

    >>> question_of({"question": "Sky?", "choices": ["red", "blue"], "answer": "B"}, "a").right
    1
    >>> question_of({"prompt": "2 + 2 =", "answer": 4}, "a").answer
    '4'
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object with a question, found {type(record).__name__}.")
    prompt = _value(record, _PROMPTS, "a question", where)
    answer = _value(record, _ANSWERS, "an answer", where)
    if not isinstance(prompt, str):
        raise DataError(f"{where}: the question is {type(prompt).__name__}, not text.")
    key = next((key for key in _CHOICES if key in record), "")
    if not key:
        made = Question(prompt=prompt, answer=_text(answer, where))
    else:
        choices, labels = _choices(record[key], f"{where}: {key}")
        made = Question(prompt=prompt, choices=choices, right=_place(answer, choices, labels, where))
    return check_question(made, where)


def _value(record: Mapping[str, Any], keys: tuple[str, ...], what: str, where: str) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    present = ", ".join(map(str, record)) or "nothing"
    raise DataError(f"{where} lacks {what}: none of {', '.join(keys)} (it has: {present}).")


def _text(answer: object, where: str) -> str:
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise DataError(f"{where}: the answer is {type(answer).__name__}, not text or a number.")
    return str(answer)


def _choices(value: object, where: str) -> tuple[tuple[str, ...], list[str]]:
    """Return choices and the labels by which an answer may name them."""
    labels: object = None
    if isinstance(value, Mapping):
        labels, value = value.get("label"), value.get("text")
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise DataError(f"{where} must be a list of texts.")
    if not value:
        raise DataError(f"{where} is empty. Give at least two choices, or an answer alone.")
    letters = [chr(ord("A") + i) for i in range(len(value))]
    given = isinstance(labels, list) and len(labels) == len(value)
    return tuple(value), [str(label) for label in labels] if given else letters  # type: ignore[attr-defined]


def _place(answer: object, choices: tuple[str, ...], labels: list[str], where: str) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer  # whether it names a choice is checked with the question
    said = _text(answer, where)
    for names in (choices, labels):
        if said in names:
            return names.index(said)
    if said.isdecimal():
        return int(said)
    raise DataError(
        f"{where}: answer {said!r} names none of its {len(choices)} choices. Give its place from 0, its letter or text."
    )
