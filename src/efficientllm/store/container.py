"""The file that a study travels in: a tar of plain small files, compressed by xz, the same bytes for the same study.

Written by `tarfile`. Read block by block: nothing is extracted to a path that the file names, a member that is not a
plain file under a name we know ends the reading, and so does one larger than a limit, before its bytes are unpacked.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from efficientllm.errors import ResultsError
from efficientllm.store.names import ID

#: The largest single file, all files together, and how many, that are accepted from a stranger.
MOST_FILE_BYTES = 1 << 28
MOST_BYTES = 1 << 34
MOST_FILES = 1_000_000
_BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(rf"manifest\.json|measurements/{ID}\.json|recipes/[0-9a-f]{{8}}\.yaml")


def pack(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the container of these (name, bytes), in their order.

    Raises:
        ResultsError: a name that no reader would accept, or a file larger than one would.

    >>> list(unpack_bytes(pack([("manifest.json", b"{}")])))
    [('manifest.json', b'{}')]
    """
    packed = io.BytesIO()
    with (
        lzma.open(packed, "wb", preset=6) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in files:
            if _NAME.fullmatch(name) is None or len(data) > MOST_FILE_BYTES:
                raise ResultsError(f"{name} ({len(data)} bytes) cannot travel in a bundle.")
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def unpack(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of a container file.

    Raises:
        ResultsError: it cannot be read, is truncated or corrupt, or holds what no bundle of ours holds.
    """
    try:
        with path.open("rb") as raw:
            yield from _members(raw, str(path))
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror or error}.") from error


def unpack_bytes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of a container held in memory."""
    yield from _members(io.BytesIO(data), "bundle")


def _members(raw: IO[bytes], where: str) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    left = MOST_BYTES
    try:
        with lzma.open(raw, "rb") as tar:
            while (header := _exactly(tar, _BLOCK, where)) != bytes(_BLOCK):
                member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
                _check(member, seen, left, where)
                data = _exactly(tar, member.size, where)
                _exactly(tar, -member.size % _BLOCK, where)
                left -= member.size
                yield member.name, data
            padding = tar.read(tarfile.RECORDSIZE + 1)  # to the end of the stream, where xz verifies its checksum
            if len(padding) > tarfile.RECORDSIZE or padding.strip(b"\0"):
                raise ResultsError(f"{where} is corrupt: something follows its end. Fetch it again.")
    except (lzma.LZMAError, EOFError, tarfile.HeaderError, UnicodeDecodeError) as error:
        raise ResultsError(f"{where} is truncated, corrupt or no bundle: {error}. Fetch it again.") from error


def _check(member: tarfile.TarInfo, seen: set[str], left: int, where: str) -> None:
    wrong = ""
    if member.type != tarfile.REGTYPE or _NAME.fullmatch(member.name) is None:
        wrong = f"holds {member.name!r}, which no bundle of ours holds"
    elif member.name in seen:
        wrong = f"holds {member.name!r} twice"
    elif not 0 <= member.size <= min(MOST_FILE_BYTES, left) or len(seen) >= MOST_FILES:
        wrong = f"is larger than is accepted, at {member.name!r} of {member.size} bytes"
    if wrong:
        raise ResultsError(f"{where} {wrong}. Nothing was taken from it.")
    seen.add(member.name)


def _exactly(tar: lzma.LZMAFile, num_bytes: int, where: str) -> bytes:
    data = tar.read(num_bytes) if num_bytes else b""
    if len(data) != num_bytes:
        raise ResultsError(f"{where} is truncated. Fetch it again.")
    return data
