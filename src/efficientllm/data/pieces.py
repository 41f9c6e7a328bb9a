"""Cuts long documents into pieces that encode to the same tokens, so that one document keeps all cores busy."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PIECE_CHARACTERS = 1 << 14

#: A space between two visible characters. The pre-tokenizers of GPT-2, Llama 3 and Qwen begin a word there whatever
#: comes before, and the piece before it does not end in white space, which they would group differently at an end.
_CUT = re.compile(r"(?<=\S)(?= \S)")


def pieces(text: str) -> Iterator[str]:
    """Cut a text before spaces, into pieces of at least 16,384 characters; a text without spaces stays whole.

    >>> text = "word " * 10_000
    >>> parts = list(pieces(text))
    >>> len(parts), "".join(parts) == text
    (4, True)
    """
    start = 0
    while start < len(text):
        cut = _CUT.search(text, min(start + _PIECE_CHARACTERS, len(text)))
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end
