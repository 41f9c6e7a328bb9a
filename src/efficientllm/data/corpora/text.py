"""Plain text files: one file, or a folder of .txt, .md, .py … files, a document each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from efficientllm.data.corpora._contract import CorpusEntry, Split, example_documents
from efficientllm.data.corpora._files import (
    HELDOUT_ONE_IN,
    files_fingerprint,
    find_files,
    hash_fraction,
    named_splits,
    read_utf8,
)
from efficientllm.errors import DataError
from efficientllm.records.choice import Scalar

#: Endings of a folder's files that count as text; a single file may have any ending.
ENDINGS = (
    *(".txt", ".md", ".rst", ".tex", ".text", ".py", ".pyi", ".js", ".ts", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu"),
    *(".java", ".go", ".rs", ".rb", ".jl", ".r", ".sh", ".sql", ".html", ".css", ".xml", ".toml", ".yaml", ".yml"),
)
#: Where a split may fall in a single file, best first: between paragraphs, else between lines.
_BOUNDARIES = ("\n\n", "\n")


class TextCorpus:
    """Text files, split by what the folder says, by position in a single file, or by the hash of each file's path."""

    def __init__(self, path: str) -> None:
        self._root = Path(path)
        self._files = find_files(self._root, ENDINGS, "text")
        named = named_splits(self._root, self._files, telling_endings=(".txt",))
        self._splits: dict[Split, list[Path]] | None
        if named is not None:
            self._splits, rule = named, "named by the folder"
        elif len(self._files) > 1:
            self._splits, rule = _split_by_hash(self._root, self._files), "by hash of the file's path"
        else:
            self._splits, rule = None, "by position in the file"
        self.details = {"path": path, "files": str(len(self._files)), "split": rule}

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the files of a split by relative path, or the split's part of the single file; no empty ones."""
        if self._splits is None:
            yield split_by_position(read_utf8(self._files[0]), str(self._files[0]))[split]
            return
        for file in self._splits[split]:
            text = read_utf8(file)
            if text.strip():
                yield text

    def fingerprint(self) -> str:
        """Return a hash of names, sizes and times of change of all files."""
        return files_fingerprint(self._files)


def split_by_position(text: str, where: str) -> dict[Split, str]:
    r"""Split one text: about its last tenth, from a paragraph's (else a line's) beginning on, is held out.

    Raises:
        DataError: the text has no line end near there.

    >>> split_by_position("line\n" * 50, "a.txt")["heldout"].count("line")
    5
    """
    target = len(text) - len(text) // HELDOUT_ONE_IN
    first, last = target - len(text) // HELDOUT_ONE_IN, target + len(text) // (2 * HELDOUT_ONE_IN)
    for boundary in _BOUNDARIES:
        before = text.rfind(boundary, first, target)
        after = text.find(boundary, max(0, target - len(boundary)), last)
        cuts = [cut + len(boundary) for cut in (before, after) if cut >= 0]
        for cut in sorted(cuts, key=lambda cut: abs(cut - target)):
            if text[:cut].strip() and text[cut:].strip():
                return {"train": text[:cut], "heldout": text[cut:]}
    if not text.strip():
        raise DataError(f"{where} is empty. Give a file with text in it.")
    raise DataError(
        f"{where}: held-out text would be empty: no line ends near its last tenth ({len(text)} characters in all). "
        "Give a longer text with line ends, or a folder with train/ and heldout/."
    )


def _split_by_hash(root: Path, files: list[Path]) -> dict[Split, list[Path]]:
    """Hold out files in the order of their paths' hashes until they hold a tenth of the bytes: one at least."""
    by_hash = sorted(files, key=lambda file: hash_fraction(file.relative_to(root).as_posix().encode()))
    target = sum(file.stat().st_size for file in files) / HELDOUT_ONE_IN
    heldout: set[Path] = set()
    held_bytes = 0
    for file in by_hash[:-1]:
        if held_bytes >= target:
            break
        if file.stat().st_size:
            heldout.add(file)
            held_bytes += file.stat().st_size
    return {"train": [f for f in files if f not in heldout], "heldout": [f for f in files if f in heldout]}


def _example(folder: Path) -> dict[str, Scalar]:
    for index, document in enumerate(example_documents()):
        (folder / f"{index:03}.txt").write_text(document, encoding="utf-8")
    return {"path": str(folder)}


ENTRY = CorpusEntry(title="Text files: a file or a folder", open=TextCorpus, example=_example, endings=ENDINGS)
