"""The `datasets` library: a dataset of the hub, or one saved on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientllm.data.corpora._contract import CorpusEntry, Split, example_documents
from efficientllm.data.corpora._files import files_fingerprint
from efficientllm.data.corpora._records import of_split, text_of
from efficientllm.errors import DataError
from efficientllm.records.choice import Scalar


@dataclass(frozen=True)
class Source:
    """Where a dataset is: a hub id or a folder, and which of its versions."""

    dataset: str
    config: str = ""
    revision: str = ""
    streaming: bool = False

    def load(self, name: str) -> Any:
        """Return the rows of a split.

        Raises:
            DataError: it cannot be opened.
        """
        datasets = import_datasets()
        folder = Path(self.dataset)
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                return _split_on_disk(datasets.load_from_disk(self.dataset), name, self.dataset)
            return datasets.load_dataset(
                self.dataset, self.config or None, split=name, revision=self.revision or None, streaming=self.streaming
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            # The library's messages run over several lines; the first says what.
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"dataset {self.dataset!r}, split {name!r} cannot be opened: {first}") from error

    def fingerprint(self, *more: str) -> str:
        """Return a hash of what names the dataset, and of the files' names, sizes and times if it lies on disk."""
        named = (self.dataset, self.config, self.revision, *more)
        folder = Path(self.dataset)
        if folder.is_dir():
            return files_fingerprint(sorted(p for p in folder.rglob("*") if p.is_file()), named)
        return hashlib.sha256(repr(named).encode()).hexdigest()


class DatasetsCorpus:
    """One split of a dataset for training and one held out.

    Args:
        dataset: a hub id (`HuggingFaceFW/fineweb-edu`) or a folder that `save_to_disk` wrote.
        split: the training split.
        heldout_split: the held-out split; empty: about one document in ten of `split`, by the hash of its text.
        text_key: the column with the text.
        config: the dataset's configuration (`sample-10BT`), where it has several.
        revision: commit or tag of a hub dataset; without it the newest one is read, and named so in the record.
        streaming: whether documents are fetched while reading instead of downloading the dataset first.
    """

    def __init__(
        self,
        dataset: str,
        split: str = "train",
        heldout_split: str = "",
        text_key: str = "text",
        config: str = "",
        revision: str = "",
        streaming: bool = False,
    ) -> None:
        import_datasets()
        self._source = Source(dataset, config, revision, streaming)
        self._text_key, self._names = text_key, {"train": split, "heldout": heldout_split or split}
        self._by_hash = not heldout_split
        if heldout_split == split:
            raise DataError(
                f"corpus datasets: heldout_split {split!r} is the training split. Leave it out, or change it."
            )
        self.details = {
            "dataset": dataset,
            "split": f"{split} / {heldout_split or 'by hash of the text'}",
            "revision": revision or ("on disk" if Path(dataset).is_dir() else "newest"),
            **({"config": config} if config else {}),
        }

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the texts of a split in the dataset's order; empty ones are left out."""
        texts = self._texts(self._names[split])
        return of_split(texts, split) if self._by_hash else texts

    def fingerprint(self) -> str:
        """Return a hash of what names the dataset, and of the files' names, sizes and times if it lies on disk."""
        return self._source.fingerprint(self._text_key, *self._names.values())

    def _texts(self, name: str) -> Iterator[str]:
        for number, record in enumerate(self._source.load(name)):
            text = text_of(record, self._text_key, f"dataset {self._source.dataset!r}, {name} row {number}")
            if text.strip():
                yield text


def _split_on_disk(saved: Any, name: str, where: str) -> Any:
    """Return a split of what `save_to_disk` wrote: a dataset of several splits, or a single one."""
    if not hasattr(saved, "keys"):
        own = str(saved.split or "train")
        if own != name:
            raise DataError(f"dataset {where!r} has the one split {own!r}, not {name!r}. Set split or heldout_split.")
        return saved
    if name not in saved:
        raise DataError(f"dataset {where!r} has no split {name!r} (its splits: {', '.join(saved)}). Set another.")
    return saved[name]


def import_datasets(kind: str = "corpus") -> Any:
    """Return the library, or say what to install."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{kind} datasets needs the datasets library: pip install 'efficientllm[data]'") from error
    return datasets


def _example(folder: Path) -> dict[str, Scalar]:
    datasets = import_datasets()
    datasets.Dataset.from_dict({"text": example_documents()}).save_to_disk(str(folder / "saved"))
    return {"dataset": str(folder / "saved")}


ENTRY = CorpusEntry(
    title="The datasets library: a hub id or a saved dataset",
    open=DatasetsCorpus,
    example=_example,
    endings=(".arrow",),
)
