"""Packs a split into one flat file of token ids, documents separated by the end of text, read by memory map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from efficientllm.data.cache import Stamp, is_intact, key_of, partial_file, publish, read_record, stamp, write_record
from efficientllm.data.pieces import pieces
from efficientllm.data.snapshot import SplitText, documents
from efficientllm.data.tokenizer import Tokenizer
from efficientllm.errors import DataError

#: Rises when the same text and tokenizer would give other token files.
PACKING_VERSION = 1

#: How far the bytes of the tokens may lie from the bytes of the text. A byte-level BPE is exact; normalising ones
#: (Qwen's NFC, Llama 2's space before a document) are a little off; more means that text is lost.
_TOLERATED_BYTES = 0.01
_BATCH_CHARACTERS = 1 << 22

Tokens = npt.NDArray[np.int64]
Part = Literal["test", "valid"]


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """The record beside a token file.

    Attributes:
        text_sha256, tokenizer_sha256: what it was made of.
        dtype: `uint16` up to 65,536 ids, else `uint32`.
        num_tokens, num_documents: with one end of text a document.
        text_bytes: UTF-8 bytes of the text; token_bytes: those that the tokens stand for, equal unless the tokenizer
            normalises.
        tokens, counts: stamps of the token file and of the file with the count of each id.
    """

    text_sha256: str
    tokenizer_sha256: str
    dtype: str
    num_tokens: int
    num_documents: int
    text_bytes: int
    token_bytes: int
    tokens: Stamp
    counts: Stamp


@dataclass(frozen=True)
class TokenFile:
    """A packed split.

    Attributes:
        path: the token file.
        packed: its record.
        byte_lengths: bytes that each id stands for, shape [vocab_tokens].
    """

    path: Path
    packed: Packed
    byte_lengths: Tokens

    @property
    def num_tokens(self) -> int:
        """Tokens in the file."""
        return self.packed.num_tokens

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the split's text."""
        return self.packed.text_bytes

    @property
    def token_bytes(self) -> int:
        """UTF-8 bytes that all tokens stand for."""
        return self.packed.token_bytes

    @cached_property
    def tokens(self) -> npt.NDArray[Any]:
        """All tokens, mapped from the file: shape [num_tokens], uint16 or uint32."""
        return np.memmap(self.path, dtype=self.packed.dtype, mode="r")

    @cached_property
    def counts(self) -> Tokens:
        """How often each id occurs: shape [vocab_tokens]."""
        return np.fromfile(self.path.with_suffix(".counts"), dtype="<i8")

    def rows(self, starts: Tokens, sequence_tokens: int) -> Tokens:
        """Return rows of inputs and their targets: int64, shape [len(starts), sequence_tokens + 1]."""
        index = np.asarray(starts, dtype=np.int64)[:, None] + np.arange(sequence_tokens + 1)
        return np.asarray(self.tokens[index], dtype=np.int64)

    def bytes_of(self, tokens: Tokens) -> int:
        """Return the number of UTF-8 bytes that tokens stand for; the end of text stands for none."""
        return int(self.byte_lengths[tokens].sum())

    def heldout_rows(self, sequence_tokens: int, heldout_tokens: int, part: Part = "test") -> tuple[Tokens, int]:
        """Return the rows that judge quality, and the bytes that bits per byte divides by.

        The rows are spread evenly over the file and share no target; as many as `heldout_tokens` targets fill. The
        `valid` rows are spread over what the `test` rows of the same length and number leave.

        Args:
            sequence_tokens: targets in a row.
            heldout_tokens: targets in all, rounded down to whole rows.
            part: which rows.

        Returns:
            `(rows, scored_bytes)`: int64 [rows, sequence_tokens + 1], and the UTF-8 bytes of the targets `rows[:, 1:]`.

        Raises:
            DataError: less than one row is asked for, or more than the file has.
        """
        wanted, there = heldout_tokens // sequence_tokens, self.num_rows(sequence_tokens)
        if wanted < 1:
            raise DataError(f"heldout_tokens {heldout_tokens} is less than one row of {sequence_tokens}. Raise it.")
        needed = wanted if part == "test" else 2 * wanted
        if needed > there:
            most, beside = "that", ""
            if part == "valid":
                most, beside = str(there // 2 * sequence_tokens), ", half of them for each of validation and test"
            raise DataError(
                f"the held-out text has {there * sequence_tokens} tokens in rows of {sequence_tokens}{beside}, fewer "
                f"than heldout_tokens {heldout_tokens}. Set heldout_tokens to {most} or less, or give more text."
            )
        places = np.arange(wanted) * there // wanted
        if part == "valid":
            others = np.setdiff1d(np.arange(there), places)
            places = others[np.arange(wanted) * len(others) // wanted]
        rows = self.rows(places * sequence_tokens, sequence_tokens)
        return rows, self.bytes_of(rows[:, 1:])

    def num_rows(self, sequence_tokens: int) -> int:
        """Return how many rows that share no target the file holds."""
        return (self.num_tokens - 1) // sequence_tokens


def pack(text: SplitText, tokenizer: Tokenizer, cache: Path) -> TokenFile:
    """Return the token file of a split, from the cache or packed now.

    Raises:
        DataError: the tokenizer loses text.
    """
    folder = cache / "tokens"
    path = folder / f"{key_of(PACKING_VERSION, text.sha256, tokenizer.sha256, tokenizer.end_of_text)}.tokens"
    counts_path, record = path.with_suffix(".counts"), path.with_suffix(".json")
    known = read_record(record, Packed)
    if known is None or not (is_intact(path, known.tokens) and is_intact(counts_path, known.counts)):
        with partial_file(folder) as tokens_partial, partial_file(folder) as counts_partial:
            known = _write(text, tokenizer, cache, tokens_partial, counts_partial)
            publish(counts_partial, counts_path)
            publish(tokens_partial, path)
        write_record(record, known)
    return TokenFile(path, known, tokenizer.byte_lengths)


def _write(text: SplitText, tokenizer: Tokenizer, cache: Path, tokens_path: Path, counts_path: Path) -> Packed:
    dtype = "uint16" if tokenizer.vocab_tokens <= 1 << 16 else "uint32"
    counts = np.zeros(tokenizer.vocab_tokens, dtype="<i8")
    with tokens_path.open("wb") as file:
        for batch in _batches(documents(text, cache)):
            _encode(batch, tokenizer, file, dtype, counts)
    counts.tofile(counts_path)
    token_bytes = int(counts @ tokenizer.byte_lengths)
    if abs(token_bytes - text.text_bytes) > _TOLERATED_BYTES * text.text_bytes:
        raise DataError(
            f"tokenizer {str(tokenizer.path)!r} does not keep the text: its tokens stand for {token_bytes} bytes of "
            f"{text.text_bytes}, and bits per byte would be wrong. Use 'bpe', or another tokenizer."
        )
    return Packed(
        text_sha256=text.sha256,
        tokenizer_sha256=tokenizer.sha256,
        dtype=dtype,
        num_tokens=int(counts.sum()),
        num_documents=text.num_documents,
        text_bytes=text.text_bytes,
        token_bytes=token_bytes,
        tokens=stamp(tokens_path),
        counts=stamp(counts_path),
    )


def _encode(batch: list[str], tokenizer: Tokenizer, file: BinaryIO, dtype: str, counts: Tokens) -> None:
    """Append whole documents to the file and count their tokens in place."""
    cut = [list(pieces(text)) for text in batch]
    encoded = iter(tokenizer.encode_batch([piece for parts in cut for piece in parts]))
    for parts in cut:
        ids = [i for _ in parts for i in next(encoded)]
        ids.append(tokenizer.end_of_text)
        array = np.array(ids, dtype=np.int64)
        counts += np.bincount(array, minlength=len(counts))
        array.astype(dtype).tofile(file)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Group documents into batches of about 4 M characters, which bounds the memory of packing."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
