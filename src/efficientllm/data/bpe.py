"""Trains a byte-level BPE on the corpus: the same bytes for the same text, size and version of the library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from efficientllm.data.cache import Stamp, is_intact, key_of, partial_file, publish, read_record, stamp, write_record
from efficientllm.data.pieces import pieces
from efficientllm.data.snapshot import SplitText, documents
from efficientllm.data.tokenizer import END_OF_TEXT, Tokenizer
from efficientllm.errors import DataError

#: Rises when the same text would give another tokenizer.
BPE_VERSION = 1

#: How much training text the merges are learned from, in pieces spread evenly over the first `POOL_BYTES` of it.
#: Of the standard library's 9 MB, 4 MB give 0.4 % more tokens than all of it, in less than half the time.
SAMPLE_BYTES = 4_000_000

#: 256 bytes and the end of text.
SMALLEST_VOCABULARY = 257


class _Trained(msgspec.Struct, frozen=True, kw_only=True):
    tokenizer: Stamp


def trained_tokenizer(train: SplitText, vocab_tokens: int, cache: Path) -> Tokenizer:
    """Return the byte-level BPE of a training text, from the cache or trained now.

    Args:
        train: the training split of a snapshot.
        vocab_tokens: ids in all, with the end of text; a short text may give fewer.
        cache: folder of the cache.

    Raises:
        DataError: `vocab_tokens` is below 257.
    """
    if vocab_tokens < SMALLEST_VOCABULARY:
        raise DataError(f"vocab_tokens {vocab_tokens} is too small: 256 bytes and the end of text make at least 257.")
    tokenizers_version = _tokenizers_version()
    key = key_of(BPE_VERSION, tokenizers_version, vocab_tokens, SAMPLE_BYTES, train.pool_sha256)
    folder, record = cache / "tokenizers" / key, cache / "tokenizers" / f"{key}.json"
    path = folder / "tokenizer.json"
    known = read_record(record, _Trained)
    if known is None or not is_intact(path, known.tokenizer):
        _write(folder, "tokenizer.json", train_bpe(sample(train, cache), vocab_tokens))
        # What makes the folder a tokenizer for transformers too.
        configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT}
        _write(folder, "tokenizer_config.json", json.dumps(configuration))
        write_record(record, _Trained(tokenizer=stamp(path)))
    return Tokenizer(path, END_OF_TEXT)


def train_bpe(texts: Iterable[str], vocab_tokens: int) -> str:
    """Train a byte-level BPE with GPT-2's pre-tokenizer and return it as the text of a `tokenizer.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return inner.to_str()


def sample(train: SplitText, cache: Path) -> Iterator[str]:
    """Yield pieces of the training text, spread evenly over its pool, `SAMPLE_BYTES` in all or the whole pool."""
    share = min(1.0, SAMPLE_BYTES / train.pool_bytes)
    due = taken = 0.0
    for text in documents(train, cache, train.pool_documents):
        for piece in pieces(text):
            size = len(piece.encode())
            due += size * share
            if due >= taken + size / 2:
                taken += size
                yield piece


def _write(folder: Path, name: str, text: str) -> None:
    with partial_file(folder) as partial:
        partial.write_bytes(text.encode())
        publish(partial, folder / name)


def _tokenizers_version() -> str:
    try:
        import tokenizers
    except ImportError as error:
        raise DataError("text needs the tokenizers library: pip install 'efficientllm[bench]'") from error
    return tokenizers.__version__
