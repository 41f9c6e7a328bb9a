"""From a recipe's choice to an opened corpus."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from pathlib import Path

from efficientllm import catalog, registry
from efficientllm.data.corpora._contract import SPLITS, Corpus, CorpusEntry
from efficientllm.errors import DataError, did_you_mean
from efficientllm.records.choice import Choice, Scalar


@dataclass(frozen=True)
class Reader:
    """Which reader opens a corpus, and with what.

    Attributes:
        name: the entry's name, or the stem of a user's own file.
        address: what `registry.load` takes.
        options: keyword options for the entry's `open`.
    """

    name: str
    address: str
    options: dict[str, Scalar]

    def sha256(self) -> str:
        """Return the hash of the reader's source file."""
        return registry.file_sha256(catalog.path_of("corpus", self.address))

    def open(self) -> Corpus:
        """Open the corpus.

        Raises:
            DataError: an option that the reader does not take or lacks, or whatever the reader refuses.
        """
        entry: CorpusEntry = registry.load("corpus", self.address)
        self._check_options(entry)
        return entry.open(**self.options)

    def _check_options(self, entry: CorpusEntry) -> None:
        parameters = inspect.signature(entry.open).parameters
        known = ", ".join(parameters) or "none"
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for option in self.options:
            if option not in parameters:
                hint = did_you_mean(option, parameters)
                raise DataError(f"corpus {self.name} has no option {option!r}. {hint}Its options: {known}.")
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in self.options:
                raise DataError(f"corpus {self.name} needs the option {name!r}. Its options: {known}.")


def find_reader(choice: Choice) -> Reader:
    """Return the reader of a choice: an entry, a user's own `.py` file, or the one that a plain path's ending names.

    Raises:
        UnknownNameError: neither an entry nor a path.
    """
    address = choice.address()
    if address.endswith(".py"):
        return Reader(catalog.path_of("corpus", address).stem, address, choice.options)
    if address not in catalog.names("corpus") and _is_path(address):
        return _reader_of_path(address, choice.options)
    catalog.path_of("corpus", address)  # an unknown name raises here, with the nearest one
    return Reader(address, address, choice.options)


def open_corpus(choice: Choice) -> Corpus:
    """Open the corpus that a recipe chose.

    Raises:
        UnknownNameError: no such reader.
        DataError: a path that does not exist, or an option that the reader does not take.
    """
    return find_reader(choice).open()


def check_corpus(choice: Choice) -> None:
    """Open a corpus and read the first document of each split: cheap, for before any trial is run.

    Raises:
        UserError: whatever keeps the corpus from being read, in one line.
    """
    corpus = open_corpus(choice)
    for split in SPLITS:
        if next(corpus.documents(split), None) is None:
            raise empty_split(choice.label(), split)


def empty_split(name: str, split: str) -> DataError:
    """Return the error of a split without documents."""
    what = "is empty: no training document" if split == "train" else "has no held-out document"
    return DataError(f"corpus {name} {what} with text in it. Give more text, or a folder with train/ and heldout/.")


def _is_path(address: str) -> bool:
    return os.sep in address or "/" in address or address.startswith((".", "~")) or Path(address).exists()


def _reader_of_path(given: str, options: dict[str, Scalar]) -> Reader:
    """Return the reader whose endings include the file's, or that of most files in the folder; else `text`."""
    path = Path(given).expanduser()
    if not path.exists():
        raise DataError(
            f"corpus {given!r}: no such file or folder. Known readers: {', '.join(catalog.names('corpus'))}."
        )
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    entries: dict[str, CorpusEntry] = {name: registry.load("corpus", name) for name in catalog.names("corpus")}
    matching = {name: sum(p.suffix.lower() in entry.endings for p in files) for name, entry in entries.items()}
    name = max(matching, key=lambda name: (matching[name], name == "text"))
    path_option = next(iter(inspect.signature(entries[name].open).parameters))
    return Reader(name, name, {path_option: str(path), **options})
