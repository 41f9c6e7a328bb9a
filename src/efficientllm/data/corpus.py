"""From a recipe's choice to an opened corpus, or to instruction data: to whatever a reader opens."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientllm import catalog, registry
from efficientllm.data.corpora._contract import SPLITS, Corpus, Split
from efficientllm.errors import DataError, did_you_mean
from efficientllm.records.choice import Choice, Scalar

#: kind of entry -> the reader of a plain path that no ending tells.
_PLAIN_READERS = {"corpus": "text", "instructions": "jsonl", "questions": "jsonl"}


@dataclass(frozen=True)
class Reader:
    """Which reader opens a corpus, and with what.

    Attributes:
        name: the entry's name, or the stem of a user's own file.
        address: what `registry.load` takes.
        options: keyword options for the entry's `open`.
        kind: of entry: `corpus`, or `instructions`.
    """

    name: str
    address: str
    options: dict[str, Scalar]
    kind: str = "corpus"

    def sha256(self) -> str:
        """Return the hash of the reader's source file."""
        return registry.file_sha256(catalog.path_of(self.kind, self.address))

    def open(self) -> Any:
        """Open the corpus, or what else this reader is for.

        Raises:
            DataError: an option that the reader does not take or lacks, or whatever the reader refuses.
        """
        entry = registry.load(self.kind, self.address)
        self._check_options(entry)
        return entry.open(**self.options)

    def _check_options(self, entry: Any) -> None:
        parameters = inspect.signature(entry.open).parameters
        known = ", ".join(parameters) or "none"
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for option in self.options:
            if option not in parameters:
                hint = did_you_mean(option, parameters)
                raise DataError(f"{self.kind} {self.name} has no option {option!r}. {hint}Its options: {known}.")
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in self.options:
                raise DataError(f"{self.kind} {self.name} needs the option {name!r}. Its options: {known}.")


def find_reader(choice: Choice, kind: str = "corpus") -> Reader:
    """Return the reader of a choice: an entry, a user's own `.py` file, or the one that a plain path's ending names.

    Raises:
        UnknownNameError: neither an entry nor a path.
    """
    address = choice.address()
    if address.endswith(".py"):
        return Reader(catalog.path_of(kind, address).stem, address, choice.options, kind)
    if address not in catalog.names(kind) and _is_path(address):
        return _reader_of_path(address, choice.options, kind)
    catalog.path_of(kind, address)  # an unknown name raises here, with the nearest one
    return Reader(address, address, choice.options, kind)


def open_corpus(choice: Choice) -> Corpus:
    """Open the corpus that a recipe chose.

    Raises:
        UnknownNameError: no such reader.
        DataError: a path that does not exist, or an option that the reader does not take.
    """
    corpus: Corpus = find_reader(choice).open()
    return corpus


def check_corpus(choice: Choice) -> None:
    """Open a corpus and read the first document of each split: cheap, for before any trial is run.

    Raises:
        UserError: whatever keeps the corpus from being read, in one line.
    """
    check_splits(open_corpus(choice).documents, lambda split: empty_split(choice.label(), split))


def check_splits(read: Callable[[Split], Iterable[object]], empty: Callable[[Split], DataError]) -> None:
    """Read what comes first in each split.

    Raises:
        UserError: whatever keeps it from being read; of a split with nothing in it, what `empty` returns.
    """
    for split in SPLITS:
        if next(iter(read(split)), None) is None:
            raise empty(split)


def empty_split(name: str, split: str) -> DataError:
    """Return the error of a split without documents."""
    what = "is empty: no training document" if split == "train" else "has no held-out document"
    return DataError(f"corpus {name} {what} with text in it. Give more text, or a folder with train/ and heldout/.")


def _is_path(address: str) -> bool:
    return os.sep in address or "/" in address or address.startswith((".", "~")) or Path(address).exists()


def _reader_of_path(given: str, options: dict[str, Scalar], kind: str) -> Reader:
    """Return the reader whose endings include the file's, or that of most files in the folder; else the plain one."""
    path = Path(given).expanduser()
    if not path.exists():
        raise DataError(f"{kind} {given!r}: no such file or folder. Known readers: {', '.join(catalog.names(kind))}.")
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    entries = {name: registry.load(kind, name) for name in catalog.names(kind)}
    matching = {name: sum(p.suffix.lower() in entry.endings for p in files) for name, entry in entries.items()}
    name = max(matching, key=lambda name: (matching[name], name == _PLAIN_READERS[kind]))
    path_option = next(iter(inspect.signature(entries[name].open).parameters))
    return Reader(name, name, {path_option: str(path), **options}, kind)
