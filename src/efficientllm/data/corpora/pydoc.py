"""Prose of the running Python: the chapters of its language reference that `help()` shows, without any source file.

There on every machine, no download: some 80 chapters and 0.5 MB. The `stdlib` corpus leaves them out, so that a model
trained on sources has never seen them: English about Python is near enough to mean something, and another kind of text.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from functools import cached_property

from efficientllm.data.corpora._contract import CorpusEntry, Split
from efficientllm.errors import DataError


class LanguageReference:
    """Chapters as documents, by name; the hash of its name holds every second one out, for it serves judging mostly."""

    @property
    def details(self) -> dict[str, str]:
        """Python's version, and how many chapters it has."""
        return {"python": platform.python_version(), "chapters": str(len(self._chapters))}

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the chapters of a split by name."""
        return (text for name, text in self._chapters if _is_heldout(name) == (split == "heldout"))

    def fingerprint(self) -> str:
        """Return a hash of all names and texts."""
        return hashlib.sha256(repr(self._chapters).encode()).hexdigest()

    @cached_property
    def _chapters(self) -> list[tuple[str, str]]:
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise DataError(
                "corpus pydoc: this Python was installed without pydoc_data. Use a text of your own: outside: ./folder."
            ) from error
        return sorted((str(name), str(text)) for name, text in topics.items() if str(text).strip())


def _is_heldout(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


ENTRY = CorpusEntry(title="The running Python's language reference, as help() shows it", open=LanguageReference)
