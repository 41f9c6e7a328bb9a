"""How a record holds a sample: which keys its question, its response or its turns are under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from efficientllm.data.instructions._contract import Message, Role, Sample, pair
from efficientllm.errors import DataError

Record = Mapping[str, Any]

#: Keys of a question and of its response, the usual ones first.
_PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("instruction", "response"),
    ("problem", "solution"),
    ("input", "output"),
)
#: What turns are called, and whose they are.
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


@dataclass(frozen=True)
class Layout:
    """A way to hold a sample.

    Attributes:
        name: what a record calls it.
        needed: keys that a record must have.
        read: gives the sample of a record, None if it has no response.
    """

    name: str
    needed: tuple[str, ...]
    read: Callable[[Record, str], Sample | None]


def pair_layout(prompt_key: str, response_key: str) -> Layout:
    """Return the layout of a question and its response under these keys."""

    def read(record: Record, where: str) -> Sample | None:
        response = _text(record, response_key, where)
        return pair(_text(record, prompt_key, where), response) if response.strip() else None

    return Layout(f"{prompt_key}/{response_key}", (prompt_key, response_key), read)


def _alpaca(record: Record, where: str) -> Sample | None:
    response = _text(record, "output", where)
    parts = [_text(record, key, where) for key in ("instruction", "input") if record.get(key)]
    return pair("\n\n".join(parts), response) if response.strip() else None


def _turns(key: str) -> Callable[[Record, str], Sample | None]:
    def read(record: Record, where: str) -> Sample | None:
        turns = record[key]
        if not isinstance(turns, list | tuple):
            raise DataError(f"{where}: {key!r} is {type(turns).__name__}, not a list of turns. Mend the record.")
        messages = [_message(turn, f"{where}, turn {number}") for number, turn in enumerate(turns, start=1)]
        while messages and (messages[-1].role != "assistant" or not messages[-1].content.strip()):
            messages.pop()  # a question that nobody answered
        return Sample(messages=tuple(messages)) if messages else None

    return read


#: The more telling ones first.
LAYOUTS = (
    Layout("messages", ("messages",), _turns("messages")),
    Layout("sharegpt", ("conversations",), _turns("conversations")),
    Layout("alpaca", ("instruction", "output"), _alpaca),
    *(pair_layout(*keys) for keys in _PAIRS),
)


def layout_of(record: object, where: str) -> Layout:
    """Return the layout that a record has.

    Raises:
        DataError: none that is known.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object with a prompt and a response, found {type(record).__name__}.")
    found = next((layout for layout in LAYOUTS if all(key in record for key in layout.needed)), None)
    if found is None:
        keys = ", ".join(map(str, record)) or "none"
        known = "prompt/response, question/answer, messages, conversations, instruction/output"
        raise DataError(
            f"{where}: no prompt with a response (its keys: {keys}; known: {known}). Set prompt_key and response_key."
        )
    return found


def sample_of(record: object, layout: Layout, where: str) -> Sample | None:
    """Return the sample of a record, None if it has no response; in any layout, `system` may stand beside it.

    Raises:
        DataError: it is not of this layout.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object, found {type(record).__name__}.")
    missing = next((key for key in layout.needed if key not in record), None)
    if missing is not None:
        keys = ", ".join(map(str, record)) or "none"
        raise DataError(f"{where}: no key {missing!r} of the layout {layout.name} (its keys: {keys}). Mend the record.")
    sample = layout.read(record, where)
    system = _text(record, "system", where)
    if sample is None or not system.strip() or sample.messages[0].role == "system":
        return sample
    return Sample(messages=(Message("system", system), *sample.messages), answer=sample.answer)


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where} is {type(turn).__name__}, not an object with role and content. Mend the record.")
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    role = _ROLES.get(_text(turn, role_key, where).lower())
    if role is None:
        raise DataError(
            f"{where}: unknown role {turn[role_key]!r}. Known: {', '.join(_ROLES)}. Leave such records out."
        )
    return Message(role, _text(turn, content_key, where))


def _text(record: Record, key: str, where: str) -> str:
    value = record.get(key, "")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {key!r} is {type(value).__name__}, not text. Mend the record, or name another key.")
    return value
