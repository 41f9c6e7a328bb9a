"""What a reader of instruction data is: something that gives the same samples, in two splits, every time it is asked.

A reader's file ends with `ENTRY = InstructionsEntry(...)`. A user's own file does the same
(`instructions: ./my_reader.py`); its `open` may return any object with the three members of `Instructions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from efficientllm.data.corpora._contract import SPLITS, Split, no_example
from efficientllm.records.choice import Scalar

Role = Literal["system", "user", "assistant"]

#: How many samples of a split the contract looks at.
_CHECKED_SAMPLES = 1000


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Role
    content: str


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation; what the assistant says in it is learned, all else is given.

    Attributes:
        messages: at least one turn of the assistant; the last one is.
        answer: the part of the last response that is right or wrong (`72` of a whole calculation); empty: all of it.
    """

    messages: tuple[Message, ...]
    answer: str = ""


class Instructions(Protocol):
    """Samples in two splits, in a fixed order."""

    @property
    def details(self) -> dict[str, str]:
        """What a reader of the record should know: path, layout, number of samples, what was left out and why."""
        ...

    def samples(self, split: Split) -> Iterator[Sample]:
        """Yield the samples of a split, the same ones in the same order at every call; no prompt is in both splits."""
        ...

    def fingerprint(self) -> str:
        """Return a key that changes when the samples may have changed, without reading all of them."""
        ...


def pair(prompt: str, response: str, answer: str = "", system: str = "") -> Sample:
    """Return a sample of one question and its response.

    >>> pair("2 + 2 =", "4").messages[-1].content
    '4'
    """
    first = (Message("system", system),) if system else ()
    return Sample(messages=(*first, Message("user", prompt), Message("assistant", response)), answer=answer)


def prompt_of(sample: Sample) -> str:
    """Return what is given before the last response, its white space evened out: what makes two prompts the same one.

    >>> prompt_of(pair("2 + 2 =", "4")) == prompt_of(pair(" 2 + 2  =", "5"))
    True
    """
    return "\n".join(f"{m.role} {' '.join(m.content.split())}" for m in sample.messages[:-1])


@dataclass(frozen=True)
class InstructionsEntry:
    """An instruction reader's entry.

    Attributes:
        title: one line for lists.
        open: called with the recipe's options; raises `DataError` for what cannot be read.
        example: writes a small set of at least 40 samples into an empty folder and returns the options that open it;
            the contract is checked on it.
        endings: endings of files that a plain path (`instructions: ./a.jsonl`) hands to this reader.
    """

    title: str
    open: Callable[..., Instructions]
    example: Callable[[Path], dict[str, Scalar]] = no_example
    endings: tuple[str, ...] = ()


def problems(entry: InstructionsEntry, folder: Path) -> list[str]:
    """Return what a reader does wrong, one sentence each; an empty list means that it keeps the contract.

    Args:
        entry: the reader.
        folder: an empty folder for its example.
    """
    options = entry.example(folder)
    first, second = entry.open(**options), entry.open(**options)
    found: list[str] = []
    prompts: dict[Split, set[str]] = {}
    for split in SPLITS:
        samples = _beginning(first, split)
        wrong = _problems_of_split(split, samples)
        prompts[split] = set() if wrong else {prompt_of(sample) for sample in samples}
        found += wrong
        if _beginning(first, split) != samples:
            found.append(f"{split}: a second reading gives other samples")
        if _beginning(second, split) != samples:
            found.append(f"{split}: opened again, the data gives other samples")
    if prompts["train"] & prompts["heldout"]:
        found.append("a prompt is in both splits")
    if first.fingerprint() != second.fingerprint():
        found.append("fingerprint: opened again, the data has another one")
    if not all(isinstance(part, str) for item in first.details.items() for part in item):
        found.append("details: keys and values must be text")
    return found


def _problems_of_split(split: Split, samples: list[Sample]) -> list[str]:
    if not samples:
        return [f"{split}: no samples"]
    wrong = next((s for s in samples if not isinstance(s, Sample)), None)
    if wrong is not None:
        return [f"{split}: a sample is {type(wrong).__name__}, not a Sample"]
    if not all(s.messages and s.messages[-1].role == "assistant" for s in samples):
        return [f"{split}: a sample does not end with a turn of the assistant"]
    if not all(s.messages[-1].content.strip() for s in samples):
        return [f"{split}: a response is empty"]
    unsaid = next((s for s in samples if s.answer not in s.messages[-1].content), None)
    return [f"{split}: an answer ({unsaid.answer!r}) is no part of its response"] if unsaid else []


def _beginning(instructions: Instructions, split: Split) -> list[Sample]:
    return [sample for sample, _ in zip(instructions.samples(split), range(_CHECKED_SAMPLES), strict=False)]
