"""What a check is: a pure function of a submission that yields what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from efficientllm.validity.submission import Submission


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that a check found.

    Attributes:
        where: file, window and figure, as far as they are known.
        why: one sentence with the values.
        refused: whether the submission is refused for it, or a reader is only told.
    """

    where: str
    why: str
    refused: bool = True


def _always(submission: Submission) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class CheckEntry:
    """A check's entry.

    Attributes:
        title: what holds where it finds nothing.
        order: place among the checks, the cheap and fundamental ones first.
        look: yields what is wrong.
        not_applicable: tells why a submission has nothing to look at, or an empty string.
    """

    title: str
    order: int
    look: Callable[[Submission], Iterable[Fault]]
    not_applicable: Callable[[Submission], str] = _always
