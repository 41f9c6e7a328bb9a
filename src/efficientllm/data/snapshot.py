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

from efficientllm.data.cache import Stamp, is_intact, key_of, partial_file, publish, read_record, stamp, write_record
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
        pool_documents, pool_bytes, pool_sha256: the documents of the first `POOL_BYTES`, whatever the limit.
        num_repeated: training documents left out because a held-out one is equal.
        text, ends: stamps of the two files.
    """

    sha256: str
    num_documents: int
    text_bytes: int
    complete: bool
    pool_documents: int
    pool_bytes: int
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
        train_limit_bytes: reading the training split stops after the document that reaches so much text.
        heldout_limit_bytes: likewise, of the held-out split.

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
    held_out: set[bytes] = set()
    heldout = _write_split(corpus, reader.name, "heldout", heldout_limit_bytes, folder, held_out)
    train = _write_split(corpus, reader.name, "train", train_limit_bytes, folder, held_out)
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
class _Body:
    """The documents of a split on their way to a file."""

    file: BinaryIO
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    ends: list[int] = field(default_factory=list)
    text_bytes: int = 0
    pool_documents: int = 0
    pool_bytes: int = 0
    pool_sha256: str = ""

    def add(self, data: bytes) -> None:
        """Append one document."""
        self.file.write(data)
        self.digest.update(len(data).to_bytes(8, "little"))
        self.digest.update(data)
        self.text_bytes += len(data)
        self.ends.append(self.text_bytes)
        if not self.pool_sha256 and self.text_bytes >= POOL_BYTES:
            self.close_pool()

    def close_pool(self) -> None:
        """Note that what came so far is the pool."""
        self.pool_documents, self.pool_bytes = len(self.ends), self.text_bytes
        self.pool_sha256 = self.digest.hexdigest()


def _write_split(
    corpus: Corpus, name: str, split: Split, limit_bytes: int, folder: Path, held_out: set[bytes]
) -> SplitText:
    """Write one split; the hashes of held-out documents go into `held_out`, and keep equal training ones out."""
    with partial_file(folder) as text_partial, partial_file(folder) as ends_partial:
        with text_partial.open("wb") as file:
            body = _Body(file)
            complete, num_repeated = _copy_documents(corpus, name, split, limit_bytes, held_out, body)
        if not body.ends:
            raise empty_split(name, split)
        if not body.pool_sha256:
            body.close_pool()
        np.asarray(body.ends, dtype="<i8").tofile(ends_partial)
        written = SplitText(
            sha256=body.digest.hexdigest(),
            num_documents=len(body.ends),
            text_bytes=body.text_bytes,
            complete=complete,
            pool_documents=body.pool_documents,
            pool_bytes=body.pool_bytes,
            pool_sha256=body.pool_sha256,
            num_repeated=num_repeated,
            text=stamp(text_partial),
            ends=stamp(ends_partial),
        )
        for partial, path in zip((text_partial, ends_partial), _paths(folder, written.sha256), strict=True):
            publish(partial, path)
    return written


def _copy_documents(
    corpus: Corpus, name: str, split: Split, limit_bytes: int, held_out: set[bytes], body: _Body
) -> tuple[bool, int]:
    """Copy documents up to the limit; return whether the split ended, and how many were left out as held out."""
    num_repeated = 0
    for number, document in enumerate(corpus.documents(split), start=1):
        if body.text_bytes >= limit_bytes:
            return False, num_repeated
        data = _utf8(document, f"corpus {name}: {split} document {number}")
        document_digest = hashlib.sha256(data).digest()
        if split == "heldout":
            held_out.add(document_digest)
        elif document_digest in held_out:
            num_repeated += 1
            continue
        if data.strip():
            body.add(data)
    return True, num_repeated


def _utf8(document: object, where: str) -> bytes:
    if not isinstance(document, str):
        raise DataError(f"{where} is {type(document).__name__}, not text. A reader yields str.")
    try:
        return document.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where} has half a surrogate pair at character {error.start}. Mend or drop it.") from error


def _paths(folder: Path, sha256: str) -> tuple[Path, Path]:
    return folder / f"{sha256[:24]}.txt", folder / f"{sha256[:24]}.ends"


def _is_there(folder: Path, split: SplitText) -> bool:
    text, ends = _paths(folder, split.sha256)
    return is_intact(text, split.text) and is_intact(ends, split.ends)
