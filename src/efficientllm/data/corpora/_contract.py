"""What a corpus reader is: something that gives the same documents, in two splits, every time it is asked.

A reader's file ends with `ENTRY = CorpusEntry(...)`. A user's own file does the same (`corpus: ./my_reader.py`); its
`open` may return any object with the three members of `Corpus`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from efficientllm.records.choice import Scalar

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)

#: How many documents of a split the contract looks at.
_CHECKED_DOCUMENTS = 1000


class Corpus(Protocol):
    """Documents in two splits, in a fixed order."""

    @property
    def details(self) -> dict[str, str]:
        """What a reader of the record should know: version, number of files, path, what was left out."""
        ...

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the documents of a split, the same ones in the same order at every call."""
        ...

    def fingerprint(self) -> str:
        """Return a key that changes when the text may have changed, without reading all of it (names, sizes …)."""
        ...


def no_example(folder: Path) -> dict[str, Scalar]:
    """Write nothing: for a reader that can be opened without options."""
    del folder
    return {}


@dataclass(frozen=True)
class CorpusEntry:
    """A corpus reader's entry.

    Attributes:
        title: one line for lists.
        open: called with the recipe's options; raises `DataError` for what cannot be read.
        example: writes a small corpus of at least 40 documents into an empty folder and returns the options that
            open it; the contract is checked on it.
        endings: endings of files that a plain path (`corpus: ./a.jsonl`) hands to this reader.
    """

    title: str
    open: Callable[..., Corpus]
    example: Callable[[Path], dict[str, Scalar]] = no_example
    endings: tuple[str, ...] = ()


def example_documents(count: int = 60) -> list[str]:
    """Return small documents, all different, with characters of one to four bytes.

    >>> example_documents(2)[1].splitlines()[0]
    'Document 1: naïve café, 漢字 and 🙂.'
    """
    return [
        f"Document {index}: naïve café, 漢字 and 🙂.\n\n" + "".join(f"line {index * 7 + j} of many\n" for j in range(8))
        for index in range(count)
    ]


def problems(entry: CorpusEntry, folder: Path) -> list[str]:
    """Return what a reader does wrong, one sentence each; an empty list means that it keeps the contract.

    Args:
        entry: the reader.
        folder: an empty folder for its example.
    """
    options = entry.example(folder)
    first, second = entry.open(**options), entry.open(**options)
    found = []
    seen: dict[Split, list[str]] = {}
    for split in SPLITS:
        seen[split] = documents = _beginning(first, split)
        found += _problems_of_split(split, documents)
        if _beginning(first, split) != documents:
            found.append(f"{split}: a second reading gives other documents")
        if _beginning(second, split) != documents:
            found.append(f"{split}: opened again, the corpus gives other documents")
    if set(seen["train"]) & set(seen["heldout"]):
        found.append("a document is in both splits")
    if first.fingerprint() != second.fingerprint():
        found.append("fingerprint: opened again, the corpus has another one")
    if not all(isinstance(part, str) for item in first.details.items() for part in item):
        found.append("details: keys and values must be text")
    return found


def _problems_of_split(split: Split, documents: list[str]) -> list[str]:
    if not documents:
        return [f"{split}: no documents"]
    wrong = next((d for d in documents if not isinstance(d, str)), None)
    if wrong is not None:
        return [f"{split}: a document is {type(wrong).__name__}, not text"]
    return [f"{split}: a document is empty"] if not all(d.strip() for d in documents) else []


def _beginning(corpus: Corpus, split: Split) -> list[str]:
    return [document for document, _ in zip(corpus.documents(split), range(_CHECKED_DOCUMENTS), strict=False)]
