"""The text that was really read, on disk: everything after it (tokenizer, token files) reads this and not the corpus.

A corpus is read once. Its held-out split comes first; a training document that equals a held-out one is then left
out, so that no held-out document is trained on. Each split becomes `<sha256>.txt` (UTF-8, documents back to back) and
`<sha256>.ends` (int64, where each document ends).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from efficientllm.data.cache import Stamp, is_intact, key_of, read_record, replacing, stamp, write_record
from efficientllm.data.corpora._contract import Corpus, Split
from efficientllm.data.corpus import Reader, empty_split
from efficientllm.errors import DataError

#: Rises when the same corpus would give another snapshot.
SNAPSHOT_VERSION = 1

#: A larger corpus is read as far as this, or as far as the token budget needs, and its tokenizer learns from so much.
POOL_BYTES = 64 * 1024**2


class SplitText(msgspec.Struct, frozen=True, kw_only=True):
    """One split of a snapshot.

    Attributes:
        sha256: of all documents, each preceded by its length.
        num_documents, text_bytes: how much it is, in UTF-8.
        complete: whether the split ended; else reading stopped at the limit.
        pool_documents, pool_sha256: the documents of the first `POOL_BYTES`, which do not depend on the limit.
        num_repeated: training documents left out because a held-out one is equal.
        text, ends: stamps of the two files.
    """

    sha256: str
    num_documents: int
    text_bytes: int
    complete: bool
    pool_documents: int
    pool_sha256: str
    num_repeated: int
    text: Stamp
    ends: Stamp


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Both splits of a corpus, and what its reader says about it."""

    train: SplitText
    heldout: SplitText
    details: dict[str, str]

    def sha256(self) -> str:
        """Return the identity of the text of both splits."""
        return hashlib.sha256(f"{self.train.sha256} {self.heldout.sha256}".encode()).hexdigest()


def take_snapshot(reader: Reader, cache: Path, train_limit_bytes: int, heldout_limit_bytes: int) -> Snapshot:
    """Return the snapshot of a corpus, read now unless the cache has it and the corpus' fingerprint is unchanged.

    Args:
        reader: opens the corpus.
        cache: folder of the cache.
        train_limit_bytes, heldout_limit_bytes: reading a split stops after the document that reaches so much text.

    Raises:
        DataError: whatever the reader refuses, an empty split, or a document that is not text.
    """
    corpus, folder = reader.open(), cache / "texts"
    limits = train_limit_bytes, heldout_limit_bytes
    key = key_of(
        SNAPSHOT_VERSION, reader.name, reader.sha256(), reader.options, corpus.fingerprint(), POOL_BYTES, *limits
    )
    record = folder / f"{key}.json"
    known = read_record(record, Snapshot)
    if known is not None and all(_is_there(folder, split) for split in (known.train, known.heldout)):
        return known
    writer = _Writer(corpus, reader.name, folder)
    heldout = writer.write("heldout", heldout_limit_bytes)
    train = writer.write("train", train_limit_bytes)
    snapshot = Snapshot(train=train, heldout=heldout, details=dict(corpus.details))
    write_record(record, snapshot)
    return snapshot


def documents(split: SplitText, cache: Path, num_documents: int | None = None) -> Iterator[str]:
    """Yield the documents of a snapshot's split, all of them or the first `num_documents`."""
    text_path, ends_path = _paths(cache / "texts", split.sha256)
    text = np.memmap(text_path, dtype=np.uint8, mode="r")
    start = 0
    for end in np.fromfile(ends_path, dtype="<i8", count=-1 if num_documents is None else num_documents).tolist():
        yield text[start:end].tobytes().decode("utf-8")
        start = end


@dataclass
class _Writer:
    """Writes the splits of one corpus; what is held out is remembered by its hash and kept out of the training text."""

    corpus: Corpus
    name: str
    folder: Path
    heldout_digests: set[bytes] = field(default_factory=set)

    def write(self, split: Split, limit_bytes: int) -> SplitText:
        unnamed = self.folder / f"{self.name}.{split}"
        with replacing(unnamed) as text_partial, replacing(unnamed) as ends_partial:
            with text_partial.open("wb") as text_file:
                body = _Body(text_file)
                complete, num_repeated = self._copy(split, limit_bytes, body)
            if not body.ends:
                raise empty_split(self.name, split)
            np.asarray(body.ends, dtype="<i8").tofile(ends_partial)
            sha256 = body.digest.hexdigest()
            stamps = stamp(text_partial), stamp(ends_partial)
            for partial, path in zip((text_partial, ends_partial), _paths(self.folder, sha256), strict=True):
                partial.replace(path)
        return SplitText(
            sha256=sha256,
            num_documents=len(body.ends),
            text_bytes=body.ends[-1],
            complete=complete,
            pool_documents=body.pool_documents,
            pool_sha256=body.pool_sha256,
            num_repeated=num_repeated,
            text=stamps[0],
            ends=stamps[1],
        )
