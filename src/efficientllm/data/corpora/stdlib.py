"""The standard library of the running Python: its own sources, without its tests and generated tables.

There on every machine, no download: about 650 files and 10 MB in Python 3.11.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from efficientllm.data.corpora._contract import CorpusEntry, Split
from efficientllm.data.corpora._files import is_heldout
from efficientllm.errors import DataError

#: Folders that hold tests, or what was installed besides the standard library.
_LEFT_OUT_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
#: Files that the build or the installation of Python writes: they would tell machines apart, not versions.
_LEFT_OUT_FILES = {"sitecustomize.py", "usercustomize.py"}
#: What the first lines of a generated file say. Character tables would be in both splits, all but equal, and one
#: file of documentation (0.75 MB) would be nearly half of a split.
_GENERATED = re.compile(r"generated (from|by|with)|Character Mapping Codec", re.IGNORECASE)
_FIRST_LINES = 300


class StandardLibrary:
    """Python sources as documents; a file is held out when the hash of its relative path says so, about one in ten."""

    def __init__(self) -> None:
        self._root = Path(sysconfig.get_paths()["stdlib"])
        self._files = _find_sources(self._root)
        if not self._files:
            raise DataError(
                f"corpus stdlib: {str(self._root)!r} holds no .py sources (this Python keeps them zipped or stripped). "
                "Use a text of your own: corpus: ./folder."
            )
        self._left_out = {"generated": 0, "not_utf8": 0, "unreadable": 0, "duplicate_or_empty": 0}

    @property
    def details(self) -> dict[str, str]:
        """Python's version, and how many files were read and left out."""
        read = len(self._texts)
        return {
            "python": platform.python_version(),
            "files": str(read),
            **{f"files_{reason}": str(count) for reason, count in self._left_out.items()},
        }

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the files of a split by relative path."""
        return (text for name, text in self._texts if is_heldout(name.encode()) == (split == "heldout"))

    def fingerprint(self) -> str:
        """Return a hash of Python's version and of all names and sizes."""
        return hashlib.sha256(repr((platform.python_version(), self._files)).encode()).hexdigest()

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        """All files that are written text, the first of equal ones: 10 MB, read once."""
        texts, seen = [], set()
        for name, _ in self._files:
            try:
                text = (self._root / name).read_bytes().decode("utf-8").replace("\r\n", "\n")
            except (UnicodeDecodeError, OSError) as error:
                self._left_out["not_utf8" if isinstance(error, UnicodeDecodeError) else "unreadable"] += 1
                continue
            if not text.strip() or text in seen:
                self._left_out["duplicate_or_empty"] += 1
                continue
            if _GENERATED.search(text, 0, _FIRST_LINES):
                self._left_out["generated"] += 1
                continue
            seen.add(text)
            texts.append((name, text))
        return texts


def _find_sources(root: Path) -> list[tuple[str, int]]:
    """Return relative path (with `/` on every system) and size of the sources, sorted."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in _LEFT_OUT_FOLDERS and not f.startswith("config-")]
        for file in files:
            if file.endswith(".py") and file not in _LEFT_OUT_FILES and not file.startswith("_sysconfigdata"):
                path = Path(folder, file)
                found.append((path.relative_to(root).as_posix(), path.stat().st_size))
    return sorted(found)


ENTRY = CorpusEntry(title="The running Python's own standard-library sources", open=StandardLibrary)
