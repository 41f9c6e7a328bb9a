"""What a reader of instruction data is: something that gives the same samples, in two splits, every time it is asked.

A reader of your own: write a class with the three members of `Instructions`, or hand records to `RecordInstructions` of
`_records.py`, which finds their layout and makes the splits; end the file with

    ENTRY = InstructionsEntry(title="Tickets and their answers", open=open_tickets, example=write_a_few)

and run `efficientllm check my_reader.py`, which calls the checks of `_checks.py` that every reader of this folder
passes.
`open` takes the recipe's options as keywords and raises `DataError`, one line that says file and place, for what cannot
be read; records without a response are left out and counted in `details`. `example` writes a small set into an empty
folder and returns the options that open it, so that the checks have something to read. Then use it by its path:
`instructions: {name: ./my_reader.py, path: ./tickets.csv}`. Its hash is in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from efficientllm.data.corpora._contract import Split, no_example
from efficientllm.records.choice import Scalar

Role = Literal["system", "user", "assistant"]


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
            the checks read it, and see what becomes of it when its files are emptied or gone.
        endings: endings of files that a plain path (`instructions: ./a.jsonl`) hands to this reader.
    """

    title: str
    open: Callable[..., Instructions]
    example: Callable[[Path], dict[str, Scalar]] = no_example
    endings: tuple[str, ...] = ()
