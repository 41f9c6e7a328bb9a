"""The tokenizer: byte-level BPE trained on the corpus, or an existing one, behind one face."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from efficientllm.data.vocabulary import bytes_of_tokens
from efficientllm.errors import DataError
from efficientllm.registry import file_sha256

if TYPE_CHECKING:
    import tokenizers

#: What ends a document in a tokenizer trained here.
END_OF_TEXT = "<|endoftext|>"
#: What ends a document in an existing tokenizer whose folder does not say; the first that it knows.
_KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")


class Tokenizer:
    """Text to token ids and back, and the bytes that each id stands for.

    Attributes:
        path: its `tokenizer.json`.
        sha256: hash of that file.
        vocab_tokens: one more than the largest id: the rows that an embedding needs.
        end_of_text: id that separates documents; it stands for no bytes.
    """

    def __init__(self, path: Path, end_of_text: str | None = None) -> None:
        self.path, self.sha256 = path, file_sha256(path)
        self._inner = _load(path)
        token = end_of_text or _end_of_text(path, self._inner)
        end = self._inner.token_to_id(token)
        if end is None:
            raise DataError(
                f"tokenizer {str(path)!r} has no token {token!r}, which its folder names as the end of text."
            )
        self.end_of_text: int = end
        self.vocab_tokens = max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts, without any token before or after; text that spells a special token is encoded as text."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_marked(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts of a chat template: like `encode_batch`, but what spells a special token becomes that token."""
        return [encoding.ids for encoding in self._marked.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; half a character at either end becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the exact bytes of ids; special tokens give none."""
        table = self._bytes
        return b"".join([table[i] for i in ids])

    @cached_property
    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """Number of UTF-8 bytes of each token id, shape [vocab_tokens]."""
        return np.array([len(data) for data in self._bytes], dtype=np.int64)

    @cached_property
    def _marked(self) -> tokenizers.Tokenizer:
        inner = _load(self.path)
        inner.encode_special_tokens = False
        return inner

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = bytes_of_tokens(self.path.read_text(encoding="utf-8"), str(self.path))
        table += [b""] * (self.vocab_tokens - len(table))
        table[self.end_of_text] = b""
        return table


def existing_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer by its folder, its `tokenizer.json`, or a hub id.

    Raises:
        DataError: there is none, or it cannot be read, or it does not say how a document ends.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            raise DataError(f"tokenizer folder {name!r} holds no tokenizer.json. Save it with a fast tokenizer.")
        return Tokenizer(path / "tokenizer.json")
    if path.is_file():
        return Tokenizer(path)
    if name.startswith((".", "/", "~")) or name.endswith(".json") or name.count("/") > 1:
        raise DataError(
            f"tokenizer {name!r}: no such file or folder. Give 'bpe', a folder, a tokenizer.json or a hub id."
        )
    return Tokenizer(_from_hub(name))


def _load(path: Path) -> tokenizers.Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise DataError("text needs the tokenizers library: pip install 'efficientllm[bench]'") from error
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise DataError(
            f"{path} is not a tokenizer: {error}. Give a tokenizer.json of the tokenizers library."
        ) from error
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True
    return inner


def _end_of_text(path: Path, inner: tokenizers.Tokenizer) -> str:
    """Return the token that ends a document: what the folder's configuration says, else a known one."""
    configuration = path.with_name("tokenizer_config.json")
    if configuration.is_file():
        named = json.loads(configuration.read_text(encoding="utf-8")).get("eos_token")
        named = named.get("content") if isinstance(named, dict) else named
        if named:
            return str(named)
    known = next((token for token in _KNOWN_ENDS if inner.token_to_id(token) is not None), None)
    if known is None:
        raise DataError(
            f"tokenizer {str(path)!r} does not say which token ends a document. "
            'Put a tokenizer_config.json with "eos_token" beside it.'
        )
    return known


def _from_hub(name: str) -> Path:
    """Return the local path of a hub tokenizer's file, with its configuration beside it where there is one."""
    import huggingface_hub

    try:
        path = Path(huggingface_hub.hf_hub_download(name, "tokenizer.json"))
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"tokenizer {name!r} is no file or folder here and was not found on the hub: {first} "
            "Give 'bpe', a folder, a tokenizer.json or a hub id."
        ) from error
    try:
        huggingface_hub.hf_hub_download(name, "tokenizer_config.json")
    except (OSError, ValueError):
        return path  # the repository has none; `_end_of_text` then looks for a known token
    return path
