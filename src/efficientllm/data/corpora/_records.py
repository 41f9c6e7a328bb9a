"""A corpus of records in files (JSON lines, Parquet): one text field, split by name or by the text's hash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from efficientllm.data.corpora._contract import Split
from efficientllm.data.corpora._files import files_fingerprint, find_files, is_heldout, named_splits
from efficientllm.errors import DataError


class RecordCorpus:
    """Records with a text field in one file, or in all files of a folder.

    A folder that names its splits (`train.jsonl` and `valid.jsonl`, or such folders) is taken at its word; else a
    document is held out when the hash of its text says so, about one in ten, so that equal texts share a split.
    """

    def __init__(
        self, reader: str, path: str, endings: tuple[str, ...], text_key: str, read: Callable[[Path], Iterator[str]]
    ) -> None:
        self._root, self._text_key, self._read = Path(path), text_key, read
        self._files = find_files(self._root, endings, reader)
        self._splits = named_splits(self._root, self._files, telling_endings=endings)
        self.details = {
            "path": path,
            "files": str(len(self._files)),
            "split": "by hash of the text" if self._splits is None else "named by the folder",
        }

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the texts of a split in the order of files and rows; empty ones are left out."""
        files = self._files if self._splits is None else self._splits[split]
        texts = (text for file in files for text in self._read(file))
        return texts if self._splits is not None else of_split(texts, split)

    def fingerprint(self) -> str:
        """Return a hash of names, sizes and times of change of all files."""
        return files_fingerprint(self._files, self._text_key)


def of_split(texts: Iterable[str], split: Split) -> Iterator[str]:
    """Yield those texts that the hash of the text puts into `split`."""
    # surrogatepass: a lone surrogate is refused later, with the document's number, where the text is written.
    return (text for text in texts if is_heldout(text.encode("utf-8", "surrogatepass")) == (split == "heldout"))


def text_of(record: object, text_key: str, where: str) -> str:
    """Return the text field of a record.

    Raises:
        DataError: no such field, or it is not text.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object with the key {text_key!r}, found {type(record).__name__}.")
    if text_key not in record:
        keys = ", ".join(map(str, record)) or "none"
        raise DataError(f"{where}: no key {text_key!r} (its keys: {keys}). Set text_key to the one with the text.")
    text = record[text_key]
    if not isinstance(text, str):
        raise DataError(f"{where}: {text_key!r} is {type(text).__name__}, not text. Set text_key, or mend the record.")
    return text
