"""Instruction data in tokens: rows to train on, samples to judge by, and which tokens are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficientllm.data._encode_samples import NOT_LEARNED, Encoded, Kept, encode_samples
from efficientllm.data._pack_rows import PackedRows, cached_rows
from efficientllm.data._response_floor import floor_figures
from efficientllm.data._sample_pool import Pool, sample_of, take_pool
from efficientllm.data.cache import key_of
from efficientllm.data.chat import Template
from efficientllm.data.instructions._contract import prompt_of
from efficientllm.data.instructions_reader import find_instructions_reader, no_samples
from efficientllm.data.order import permutation
from efficientllm.data.packing import Tokens
from efficientllm.data.tokenizer import Tokenizer
from efficientllm.errors import DataError
from efficientllm.records.finetune_settings import FinetuneSettings

__all__ = ["Encoded", "PackedRows", "PreparedInstructions", "batch_rows", "prepare_instructions"]

#: Rises when the same samples, tokenizer and template would give other rows.
SAMPLES_VERSION = 1

#: More is read than the budget says: what is drawn must be a fair part of the data, and rows are not all full.
_MARGIN = 1.1


@dataclass(frozen=True)
class PreparedInstructions:
    """Instruction data, ready for a workload.

    Attributes:
        train: what is trained on.
        heldout: the samples that judge, `heldout_samples` of the part that `judged_on` names, or as many as there are.
        figures: how many samples, rows and tokens there are, what was cut, dropped and padded, and what the held-out
            samples come to without a model: `unigram_bits_per_byte`, `commonest_response_ratio`,
            `commonest_answer_ratio` (see `_response_floor`).
        details: for the record: reader, its own details, template, sha256 of the samples, the commonest answer.
    """

    train: PackedRows
    heldout: tuple[Encoded, ...]
    figures: dict[str, float]
    details: dict[str, str]


def prepare_instructions(
    settings: FinetuneSettings, tokenizer: Tokenizer, template: Template, cache: Path
) -> PreparedInstructions:
    """Read, render, tokenise and pack the instruction data that the settings name.

    Of the training samples as many are used as the budget needs, drawn evenly from what is read, the same at every
    call. What the cache has is not made again.

    Args:
        settings: instructions, tokens, sequence_tokens, heldout_samples, answers and judged_on count.
        tokenizer: the model's.
        template: the model's.
        cache: folder of the cache; calls at the same time are safe.

    Raises:
        DataError: the data cannot be read, or no sample of a split can be used.
    """
    reader = find_instructions_reader(settings.instructions)
    pool = take_pool(reader, cache, settings.tokens, settings.heldout_samples)
    name, length = settings.instructions.label(), settings.sequence_tokens
    heldout = _heldout(pool, settings, tokenizer, template)
    if not heldout.samples:
        raise _all_dropped(name, "held-out", length)
    key = key_of(
        SAMPLES_VERSION, pool.sha256, tokenizer.sha256, tokenizer.end_of_text, template.sha256, length, settings.tokens
    )
    train, figures, commonest = cached_rows(
        cache / "samples" / f"{key}.rows", length, lambda: _training(pool, settings, tokenizer, template)
    )
    if not train.num_rows:
        raise _all_dropped(name, "training", length)
    figures |= {f"heldout_{name}": value for name, value in heldout.figures().items()}
    figures |= floor_figures(train.targets, commonest, heldout.samples, settings.answers, tokenizer)
    figures["epochs"] = settings.tokens / (train.num_rows * length)
    details = {**pool.details, "reader": reader.name, "samples_sha256": pool.sha256, "chat_template": template.name}
    details |= {"chat_template_sha256": template.sha256, "commonest_answer": commonest.shown()}
    return PreparedInstructions(train, heldout.samples, figures, details)


def batch_rows(samples: Sequence[Encoded], sequence_tokens: int) -> tuple[Tokens, Tokens]:
    """Return samples as rows of their own, for evaluation.

    Args:
        samples: B of them.
        sequence_tokens: length of a row; longer samples are cut.

    Returns:
        `(tokens_BT, targets_BT)`, int64; a target is the next token where it is learned, else -100; rows are padded
        at their end with token 0, which no target follows.
    """
    tokens_BT = np.zeros((len(samples), sequence_tokens), dtype=np.int64)
    targets_BT = np.full((len(samples), sequence_tokens), NOT_LEARNED, dtype=np.int64)
    for row, sample in enumerate(samples):
        tokens = sample.tokens[:sequence_tokens]
        tokens_BT[row, : len(tokens)] = tokens
        targets_BT[row, : len(tokens)] = sample.targets()[:sequence_tokens]
        targets_BT[row, max(0, len(tokens) - 1) :] = NOT_LEARNED
    return tokens_BT, targets_BT


def _training(pool: Pool, settings: FinetuneSettings, tokenizer: Tokenizer, template: Template) -> Kept:
    order = permutation(len(pool.train), seed=0, epoch=0).tolist()
    wanted = int(_MARGIN * settings.tokens) + settings.sequence_tokens
    drawn = (sample_of(pool.train[i]) for i in order)
    return encode_samples(drawn, tokenizer, template, settings.sequence_tokens, most_tokens=wanted)


def _heldout(pool: Pool, settings: FinetuneSettings, tokenizer: Tokenizer, template: Template) -> Kept:
    """Return the samples that judge, drawn evenly: every second prompt is of `test`, the others of `valid`.

    Equal prompts share a part, so that nothing that chooses a setting also judges it.
    """
    places: dict[str, int] = {}
    parity = 0 if settings.judged_on == "test" else 1
    own = [s for s in pool.heldout if places.setdefault(prompt_of(s), len(places)) % 2 == parity]
    if not own:
        raise no_samples(settings.instructions.label(), "heldout")
    drawn = (own[i] for i in permutation(len(own), seed=0, epoch=0).tolist())
    most = settings.heldout_samples
    return encode_samples(drawn, tokenizer, template, settings.sequence_tokens, most_samples=most)


def _all_dropped(name: str, split: str, sequence_tokens: int) -> DataError:
    return DataError(
        f"instructions {name}: no {split} sample leaves room for a response in sequence_tokens {sequence_tokens}. "
        "Raise it, or give shorter prompts."
    )
