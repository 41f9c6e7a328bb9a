"""The one call of a workload: settings in, tokenizer, token files and their facts out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from efficientllm.data.bpe import SAMPLE_BYTES, trained_tokenizer
from efficientllm.data.corpus import Reader, find_reader
from efficientllm.data.packing import TokenFile, Tokens, pack
from efficientllm.data.sanity import bz2_bits_per_byte, unigram_bits_per_byte
from efficientllm.data.snapshot import POOL_BYTES, Snapshot, take_snapshot
from efficientllm.data.tokenizer import Tokenizer, existing_tokenizer
from efficientllm.errors import DataError
from efficientllm.records.choice import Choice
from efficientllm.records.measurement import DataFacts
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import InferenceSettings, PretrainSettings
from efficientllm.records.training_settings import TrainingSettings

#: How often training may repeat a text. Up to 4 epochs cost little against fresh text (arXiv 2305.16264).
MAX_EPOCHS = 4

#: Text is read for so many bytes a token at first; if they make too few tokens, twice as much is read.
_FIRST_BYTES_PER_TOKEN = 8

#: A larger held-out split is read as far as this, or as far as `heldout_tokens` needs.
_HELDOUT_BYTES = 8 * 1024**2


@dataclass(frozen=True)
class Prepared:
    """Text, ready for a workload.

    Attributes:
        tokenizer: the tokenizer.
        train, heldout: the packed splits.
        facts: for the record.
        sanity: `bz2` and `unigram`, in bits per byte of the held-out rows that judge quality; `bz2_outside` of the
            other corpus' text; `bz2_NAME` and `unigram_NAME` of each domain's.
        outside: the held-out text of the corpus `outside`, if the settings name one.
        domains: the held-out text of each domain.
    """

    tokenizer: Tokenizer
    train: TokenFile
    heldout: TokenFile
    facts: DataFacts
    sanity: dict[str, float]
    outside: TokenFile | None = None
    domains: dict[str, TokenFile] = field(default_factory=dict)


def prepare(settings: ModelSettings, cache: Path, train_tokens_needed: int | None = None) -> Prepared:
    """Read, tokenize and pack the text that the settings name; what the cache has is not made again.

    A corpus of up to 64 MiB is packed whole, whatever the budget, so that all budgets share one file and one tokenizer
    and each samples the whole text. Of a larger one so much is read as the budget needs.

    Args:
        settings: corpus, tokenizer, vocab_tokens, heldout_tokens and sequence_tokens count.
        cache: folder of the cache; calls at the same time are safe.
        train_tokens_needed: the training budget; None where nothing is trained.

    Raises:
        DataError: the text cannot be used, or is too short: for a row, for `heldout_tokens`, or for the budget (more
            than 4 epochs).
    """
    reader = find_reader(settings.corpus)
    wanted = max(train_tokens_needed or 0, settings.sequence_tokens + 1)
    heldout_limit = _limit_bytes(settings.heldout_tokens, _HELDOUT_BYTES)
    while True:
        snapshot = take_snapshot(reader, cache, _limit_bytes(wanted, POOL_BYTES), heldout_limit)
        tokenizer = _tokenizer(settings, snapshot, cache)
        train, heldout = pack(snapshot.train, tokenizer, cache), pack(snapshot.heldout, tokenizer, cache)
        short = train.num_tokens < (train_tokens_needed or 0) and not snapshot.train.complete
        if not short:
            break
        wanted *= 2
    _check_length(reader, train, settings, train_tokens_needed)
    rows, scored_bytes = judged_rows(heldout, settings)
    targets = rows[:, 1:]
    facts = _facts(reader, snapshot, tokenizer, settings.tokenizer == "bpe", train, heldout)
    sanity = {
        "bz2": bz2_bits_per_byte(tokenizer.decode_bytes(targets.ravel().tolist())),
        "unigram": unigram_bits_per_byte(train.counts, targets, scored_bytes),
    }
    outside = None
    if isinstance(settings, PretrainSettings) and settings.outside is not None:
        outside = _outside(settings, settings.outside, tokenizer, cache)
        facts = msgspec.structs.replace(
            facts, details={**facts.details, "outside": _identity(settings.outside, outside)}
        )
        other = outside_rows(outside, settings)[0][:, 1:]
        sanity["bz2_outside"] = bz2_bits_per_byte(tokenizer.decode_bytes(other.ravel().tolist()))
    domains = _domains(settings, tokenizer, cache)
    details = {f"domain_{name}": _identity(choice, file) for name, (choice, file) in domains.items()}
    facts = msgspec.structs.replace(facts, details={**facts.details, **details})
    for name, (_, file) in domains.items():
        rows, scored_bytes = outside_rows(file, settings)
        sanity[f"bz2_{name}"] = bz2_bits_per_byte(tokenizer.decode_bytes(rows[:, 1:].ravel().tolist()))
        sanity[f"unigram_{name}"] = unigram_bits_per_byte(train.counts, rows[:, 1:], scored_bytes)
    files = {name: file for name, (_, file) in domains.items()}
    return Prepared(tokenizer, train, heldout, facts, sanity, outside, files)


def judged_rows(heldout: TokenFile, settings: ModelSettings) -> tuple[Tokens, int]:
    """Return the rows that judge a trial and their scored bytes: `test` rows, or `valid` ones where it only tunes."""
    part = settings.judged_on if isinstance(settings, TrainingSettings) else "test"
    return heldout.heldout_rows(settings.sequence_tokens, settings.heldout_tokens, part)


def outside_rows(outside: TokenFile, settings: ModelSettings) -> tuple[Tokens, int]:
    """Return the rows of the other corpus, as many as `heldout_tokens` fills or there are, and their scored bytes."""
    most = max(1, outside.num_rows(settings.sequence_tokens)) * settings.sequence_tokens
    return outside.heldout_rows(settings.sequence_tokens, min(settings.heldout_tokens, most))


def _outside(settings: ModelSettings, choice: Choice, tokenizer: Tokenizer, cache: Path) -> TokenFile:
    """Return the held-out text of another corpus in the tokens of the training corpus."""
    reader = find_reader(choice)
    limit_bytes = _limit_bytes(settings.heldout_tokens, _HELDOUT_BYTES)
    return pack(take_snapshot(reader, cache, POOL_BYTES, limit_bytes).heldout, tokenizer, cache)


def _domains(settings: ModelSettings, tokenizer: Tokenizer, cache: Path) -> dict[str, tuple[Choice, TokenFile]]:
    """Return the held-out text of each domain, in the tokens of the training corpus."""
    chosen = settings.domains if isinstance(settings, InferenceSettings) else {}
    return {name: (choice, _outside(settings, choice, tokenizer, cache)) for name, choice in chosen.items()}


def _identity(choice: Choice, file: TokenFile) -> str:
    return f"{choice.label()}, {file.num_tokens} tokens, text sha256 {file.packed.text_sha256}"


def _limit_bytes(tokens: int, least_bytes: int) -> int:
    """Return how much text to read for so many tokens: a power of two, so that near budgets share a file.

    >>> _limit_bytes(1000, 2**20) == 2**20, _limit_bytes(10**8, 2**20) == 2**30
    (True, True)
    """
    return int(max(least_bytes, 1 << (_FIRST_BYTES_PER_TOKEN * tokens - 1).bit_length()))


def _tokenizer(settings: ModelSettings, snapshot: Snapshot, cache: Path) -> Tokenizer:
    if settings.tokenizer == "bpe":
        return trained_tokenizer(snapshot.train, settings.vocab_tokens, cache)
    return existing_tokenizer(settings.tokenizer)


def _check_length(reader: Reader, train: TokenFile, settings: ModelSettings, needed: int | None) -> None:
    if train.num_tokens <= settings.sequence_tokens:
        raise DataError(
            f"corpus {reader.name} has {train.num_tokens} training tokens, less than one row of "
            f"sequence_tokens {settings.sequence_tokens} and its last target. Give more text, or shorter rows."
        )
    if needed is not None and needed > MAX_EPOCHS * train.num_tokens:
        raise DataError(
            f"corpus {reader.name} has {train.num_tokens} training tokens; the budget of {needed} would repeat them "
            f"{needed / train.num_tokens:.1f} times, more than {MAX_EPOCHS}. Lower tokens to "
            f"{MAX_EPOCHS * train.num_tokens}, or give more text."
        )


def _facts(
    reader: Reader, snapshot: Snapshot, tokenizer: Tokenizer, learned: bool, train: TokenFile, heldout: TokenFile
) -> DataFacts:
    text = snapshot.train
    learned_bytes = min(SAMPLE_BYTES, text.pool_bytes)
    details = {
        **snapshot.details,
        "train_documents": str(text.num_documents),
        "train_bytes": str(text.text_bytes),
        "train_read": "whole" if text.complete else f"the first {text.text_bytes} bytes",
        "train_documents_left_out": f"{text.num_repeated} equal to a held-out one",
        "heldout_documents": str(snapshot.heldout.num_documents),
        "tokenizer": f"byte-level BPE learned from {learned_bytes} bytes" if learned else str(tokenizer.path),
        "vocab_tokens": str(tokenizer.vocab_tokens),
    }
    if heldout.token_bytes != heldout.text_bytes:
        details["heldout_text_bytes"] = f"{heldout.text_bytes}; the tokenizer normalises them to {heldout.token_bytes}"
    return DataFacts(
        corpus=reader.name,
        corpus_sha256=snapshot.sha256(),
        tokenizer_sha256=tokenizer.sha256,
        train_tokens=train.num_tokens,
        heldout_tokens=heldout.num_tokens,
        heldout_bytes=heldout.token_bytes,
        details=details,
    )
