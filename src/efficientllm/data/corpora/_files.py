"""Files for readers: found in a fixed order, told apart into splits, read as strict UTF-8."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from efficientllm.data.corpora._contract import Split
from efficientllm.errors import DataError

#: How a folder may call its held-out split, the preferred one first.
_HELDOUT_WORDS = ("heldout", "valid", "validation", "val", "dev", "test")

#: One document in so many is held out where the reader makes the split.
HELDOUT_ONE_IN = 10


def find_files(path: Path, endings: tuple[str, ...], reader: str, kind: str = "corpus") -> list[Path]:
    """Return a file itself, or a folder's files with these endings, by relative path; hidden ones are left out.

    Raises:
        DataError: no such path, or no such files in the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{kind} {reader}: no file or folder {str(path)!r}. Give the path of the text.")
    everything = [p for p in path.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path))]
    files = [p for p in everything if p.suffix.lower() in endings]
    if not files:
        present = ", ".join(sorted({p.suffix or p.name for p in everything})[:8]) or "nothing"
        raise DataError(
            f"{kind} {reader}: folder {str(path)!r} holds no {' '.join(endings[:4])} file (it holds: {present}). "
            f"Give another folder, or name the reader: {kind}: {{name: jsonl, path: …}}."
        )
    return sorted(files, key=lambda p: p.relative_to(path).as_posix())


def named_splits(root: Path, files: Sequence[Path], telling_endings: tuple[str, ...]) -> dict[Split, list[Path]] | None:
    """Return the splits that a folder names itself (`train/` and `valid/`, `train.jsonl` and `test.jsonl`), or None.

    The first of heldout, valid, validation, val, dev, test that is there is the held-out one; other files are left out.

    Args:
        root: what the user gave.
        files: the files found in it.
        telling_endings: of files whose own name may name a split; a `train.py` among sources is no training split.
    """
    words: dict[str, list[Path]] = {}
    for file in files if root.is_dir() else ():
        first, *below = file.relative_to(root).parts
        if below:
            words.setdefault(first.lower(), []).append(file)
        elif file.suffix.lower() in telling_endings:
            words.setdefault(re.split(r"[-_.]", first.lower())[0], []).append(file)
    heldout = next((word for word in _HELDOUT_WORDS if word in words), None)
    if heldout is None or "train" not in words:
        return None
    return {"train": words["train"], "heldout": words[heldout]}


def files_fingerprint(files: Sequence[Path], *options: object) -> str:
    """Return a hash of names, sizes and times of change, and of the options that matter."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((stats, options)).encode()).hexdigest()


def read_utf8(path: Path) -> str:
    r"""Return a file's text, without a byte-order mark and with `\n` at line ends.

    Raises:
        DataError: the file is binary or not UTF-8.
    """
    data = path.read_bytes()
    if b"\0" in data:
        raise DataError(f"{path} is not text: it has a zero byte at {data.index(0)}. Give UTF-8 text, or leave it out.")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}. Convert it to UTF-8.") from error


def hash_fraction(data: bytes) -> float:
    """Return a number in [0, 1) that depends on the bytes alone.

    >>> 0 <= hash_fraction(b"abc") < 1, hash_fraction(b"abc") == hash_fraction(b"abc")
    (True, True)
    """
    # 53 bits are what a float holds exactly; with 64, the division could round up to 1.
    return (int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 11) / 2**53


def is_heldout(data: bytes) -> bool:
    """Whether the hash of these bytes falls to the held-out split."""
    return hash_fraction(data) < 1 / HELDOUT_ONE_IN


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
