"""Files of the cache: written whole or not at all, and looked at before they are believed.

A data file is written beside its name and renamed onto it, so two processes may write the same file at once: both
write the same bytes. Its record (a small JSON file, written last) holds a stamp of it; a file that does not fit its
stamp is made again. The whole cache may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

_STAMPED_BLOCK_BYTES = 1 << 20
_STAMPED_BLOCKS = 64

Record = TypeVar("Record", bound=msgspec.Struct)


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What a cached file must look like: its size, and a hash of up to 64 MiB of it, evenly spread."""

    size_bytes: int
    sha256: str


def key_of(*parts: object) -> str:
    """Return a short name that depends on all parts (anything that JSON can hold).

    >>> key_of("a", 1) == key_of("a", 1), key_of("a", 1) == key_of("a", 2), len(key_of("a"))
    (True, False, 24)
    """
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:24]


@contextmanager
def partial_file(folder: Path) -> Iterator[Path]:
    """Give a temporary path in `folder`, for `publish`; whatever is left there at the end is deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{os.getpid()}.{secrets.token_hex(8)}.partial"
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def publish(partial: Path, path: Path) -> None:
    """Give a finished temporary file its name, replacing what is there."""
    try:
        os.replace(partial, path)
    except PermissionError:
        # Windows does not replace a file that another process maps; if that file holds the same bytes, it serves.
        if not (path.is_file() and stamp(path) == stamp(partial)):
            raise


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write a struct as JSON, atomically."""
    with partial_file(path.parent) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1))
        publish(partial, path)


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """Read what `write_record` wrote; None if there is nothing, or nothing that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in _block_starts(size):
            file.seek(start)
            digest.update(file.read(_STAMPED_BLOCK_BYTES))
    return Stamp(size_bytes=size, sha256=digest.hexdigest())


def is_intact(path: Path, expected: Stamp) -> bool:
    """Whether a file is there and fits its stamp."""
    try:
        return path.stat().st_size == expected.size_bytes and stamp(path) == expected
    except OSError:
        return False


def _block_starts(size_bytes: int) -> list[int]:
    """Return where the hashed blocks begin: all of them in a file of up to 64 MiB, else the first, the last and others.

    >>> _block_starts(3 * 2**20 + 1) == [0, 2**20, 2 * 2**20, 3 * 2**20]
    True
    >>> starts = _block_starts(10 * 2**30)
    >>> len(starts), starts[0], 10 * 2**30 - starts[-1] == 2**20
    (64, 0, True)
    """
    blocks = -(-size_bytes // _STAMPED_BLOCK_BYTES)
    if blocks <= _STAMPED_BLOCKS:
        return [block * _STAMPED_BLOCK_BYTES for block in range(blocks)]
    last = size_bytes - _STAMPED_BLOCK_BYTES
    return [last * block // (_STAMPED_BLOCKS - 1) for block in range(_STAMPED_BLOCKS)]
