"""The samples that were really read, on disk, as a snapshot of a corpus whose documents are samples in JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from efficientllm.data.corpora._contract import Split
from efficientllm.data.corpus import Reader
from efficientllm.data.instructions._contract import Instructions, Sample, prompt_of
from efficientllm.data.instructions_reader import no_samples
from efficientllm.data.snapshot import documents, take_snapshot
from efficientllm.errors import DataError

#: So much is read whatever the budget, so that small budgets share a file and each draws from all of it.
_LEAST_BYTES = 32 * 1024**2
#: A larger budget reads so much for each of its tokens: about three times what it needs.
_BYTES_PER_TOKEN = 16
#: So many held-out samples are read, or eight times what judges, whichever is more.
_LEAST_HELDOUT = 4096


@dataclass(frozen=True)
class Pool:
    """Samples to draw from.

    Attributes:
        train: training samples in JSON, for `sample_of`; most are never looked at.
        heldout: held-out samples.
        sha256: identity of all of them.
        details: what the reader says of them.
    """

    train: Sequence[str]
    heldout: Sequence[Sample]
    sha256: str
    details: dict[str, str]


def take_pool(reader: Reader, cache: Path, train_tokens: int, heldout_samples: int) -> Pool:
    """Return the samples of instruction data, read now unless the cache has them and the fingerprint is unchanged.

    Args:
        reader: opens the instruction data.
        cache: folder of the cache.
        train_tokens: the training budget; of large data so much is read as it needs, and more to draw from.
        heldout_samples: how many judge.

    Raises:
        DataError: whatever the reader refuses, or a split without samples.
    """
    limit_bytes = max(_LEAST_BYTES, 1 << (_BYTES_PER_TOKEN * train_tokens - 1).bit_length())
    most_heldout = max(_LEAST_HELDOUT, 8 * heldout_samples)
    opener = _Opener(reader.name, reader.address, reader.options, reader.kind, most_heldout)
    snapshot = take_snapshot(opener, cache, limit_bytes, 1 << 62)  # held-out samples are limited by their number
    train = list(documents(snapshot.train, cache))
    heldout = [sample_of(document) for document in documents(snapshot.heldout, cache)]
    details = {
        **snapshot.details,
        "train_samples": str(len(train)),
        "train_read": "whole" if snapshot.train.complete else f"the first {len(train)} samples",
    }
    return Pool(train, heldout, snapshot.sha256(), details)


def sample_of(document: str) -> Sample:
    """Return a sample of a pool."""
    return msgspec.json.decode(document.encode(), type=Sample)


@dataclass(frozen=True)
class _Opener(Reader):
    """A reader whose corpus is the samples of instruction data."""

    most_heldout: int = _LEAST_HELDOUT

    def open(self) -> _SampleTexts:
        """Open the instruction data."""
        return _SampleTexts(super().open(), self.name, self.most_heldout)


class _SampleTexts:
    """Instruction data as a corpus; a training sample with the prompt of a held-out one is left out."""

    def __init__(self, instructions: Instructions, name: str, most_heldout: int) -> None:
        self._instructions, self._name, self._most_heldout = instructions, name, most_heldout
        self._heldout_prompts: set[str] = set()
        self._num_repeated = 0

    @property
    def details(self) -> dict[str, str]:
        """What the reader says, and how many prompts were in both of its splits."""
        repeated = {"train_prompts_heldout_too": str(self._num_repeated)} if self._num_repeated else {}
        return {**self._instructions.details, **repeated}

    def documents(self, split: Split) -> Iterator[str]:
        """Yield samples in JSON; the held-out ones are asked for first (`take_snapshot` does)."""
        number, most = 0, self._most_heldout if split == "heldout" else None
        for sample in itertools.islice(self._instructions.samples(split), most):
            _check_sample(sample, f"instructions {self._name}: {split} sample {number + 1}")
            if split == "heldout":
                self._heldout_prompts.add(prompt_of(sample))
            elif prompt_of(sample) in self._heldout_prompts:
                self._num_repeated += 1
                continue
            number += 1
            yield _json(sample, f"instructions {self._name}: {split} sample {number}")
        if not number:
            raise no_samples(self._name, split, self._instructions.details)

    def fingerprint(self) -> str:
        """Return the reader's, with how many held-out samples are read."""
        return f"{self._instructions.fingerprint()} {self._most_heldout}"


def _check_sample(sample: object, where: str) -> None:
    """Refuse what a user's own reader may give."""
    if not isinstance(sample, Sample):
        raise DataError(f"{where} is {type(sample).__name__}, not a Sample. A reader yields Sample.")
    if not sample.messages or sample.messages[-1].role != "assistant":
        raise DataError(f"{where} does not end with a turn of the assistant. A reader yields responses.")


def _json(sample: Sample, where: str) -> str:
    try:
        return msgspec.json.encode(sample).decode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} has half a surrogate pair at character {error.start}. Mend or drop it.") from error
