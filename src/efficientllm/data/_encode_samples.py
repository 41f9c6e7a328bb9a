"""From samples to tokens, with which of them are learned; what does not fit is cut or dropped, and counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from efficientllm.data.chat import Template, Turns
from efficientllm.data.instructions._contract import Sample
from efficientllm.data.packing import Tokens
from efficientllm.data.tokenizer import Tokenizer

#: What a target says where nothing is learned: the value that cross-entropy leaves out.
NOT_LEARNED = -100
#: Samples that are encoded at once.
_BATCH = 512


@dataclass(frozen=True)
class Encoded:
    """A sample in tokens.

    Attributes:
        tokens: int64 [N].
        learned: [N], whether a token is to be predicted; False for all that is given.
        prompt_tokens: tokens before the last response.
        response: the last response's text.
        answer: the part of it that is right or wrong; empty: all of it.
    """

    tokens: Tokens
    learned: npt.NDArray[np.bool_]
    prompt_tokens: int
    response: str
    answer: str

    def targets(self) -> Tokens:
        """Return what each token should tell, int64 [N]: the next one where it is learned, else -100."""
        targets = np.full(len(self.tokens), NOT_LEARNED, dtype=np.int64)
        targets[:-1] = np.where(self.learned[1:], self.tokens[1:], NOT_LEARNED)
        return targets


@dataclass
class Kept:
    """What became of samples.

    Attributes:
        samples: those that fit, in order.
        num_truncated, truncated_tokens: samples cut at their end, and how much was cut off all of them.
        num_dropped: samples whose prompt leaves no room for a response, or whose response has no token.
    """

    samples: tuple[Encoded, ...] = ()
    num_truncated: int = 0
    truncated_tokens: int = 0
    num_dropped: int = 0

    def figures(self) -> dict[str, float]:
        """Return the counts by name."""
        return {
            "num_samples": float(len(self.samples)),
            "num_truncated_samples": float(self.num_truncated),
            "truncated_tokens": float(self.truncated_tokens),
            "num_dropped_samples": float(self.num_dropped),
        }


def encode_samples(
    samples: Iterable[Sample],
    tokenizer: Tokenizer,
    template: Template,
    sequence_tokens: int,
    *,
    most_tokens: float = math.inf,
    most_samples: float = math.inf,
) -> Kept:
    """Encode samples in turn until so many of them, with so many tokens, are kept.

    Each piece of a template is tokenised by itself, so that the tokens before a response are those of the prompt alone.

    Args:
        samples: what to encode; read no further than needed.
        tokenizer: the model's.
        template: gives each sample's pieces.
        sequence_tokens: a longer sample is cut at its end.
        most_tokens: where to stop.
        most_samples: likewise.

    Raises:
        DataError: the template refuses a sample.
    """
    kept, taken, num_tokens = Kept(), list[Encoded](), 0
    for encoded in _encoded(samples, tokenizer, template):
        if num_tokens >= most_tokens or len(taken) >= most_samples:
            break
        fitting = _fit(encoded, sequence_tokens, kept)
        if fitting is not None:
            taken.append(fitting)
            num_tokens += len(fitting.tokens)
    kept.samples = tuple(taken)
    return kept


def _encoded(samples: Iterable[Sample], tokenizer: Tokenizer, template: Template) -> Iterator[Encoded]:
    remaining = iter(samples)
    while batch := list(itertools.islice(remaining, _BATCH)):
        yield from _encode(batch, tokenizer, template)


def _encode(batch: Sequence[Sample], tokenizer: Tokenizer, template: Template) -> list[Encoded]:
    turns = [template.turns(sample) for sample in batch]
    texts = [text for pieces in turns for text, _ in pieces]
    encode = tokenizer.encode_marked if template.marked else tokenizer.encode_batch
    ids = iter(encode(texts))
    end = () if template.marked else (tokenizer.end_of_text,)
    return [
        _join(sample, pieces, [next(ids) for _ in pieces], end) for sample, pieces in zip(batch, turns, strict=True)
    ]


def _join(sample: Sample, pieces: Turns, ids: list[list[int]], end: tuple[int, ...]) -> Encoded:
    """Put the pieces of a sample together; `end` follows each learned one."""
    tokens: list[int] = []
    learned: list[bool] = []
    prompt_tokens = 0
    for (_, is_learned), piece in zip(pieces, ids, strict=True):
        if is_learned:
            prompt_tokens, piece = len(tokens), [*piece, *end]
        tokens += piece
        learned += [is_learned] * len(piece)
    response = sample.messages[-1].content
    return Encoded(
        np.array(tokens, dtype=np.int64), np.array(learned, dtype=np.bool_), prompt_tokens, response, sample.answer
    )


def _fit(sample: Encoded, sequence_tokens: int, kept: Kept) -> Encoded | None:
    """Return what fits into a row, None if no token of the last response does, and count what is lost."""
    over = len(sample.tokens) - sequence_tokens
    if not sample.learned[max(1, sample.prompt_tokens) : sequence_tokens].any():
        kept.num_dropped += 1
        return None
    if over <= 0:
        return sample
    kept.num_truncated += 1
    kept.truncated_tokens += over
    return replace(sample, tokens=sample.tokens[:sequence_tokens], learned=sample.learned[:sequence_tokens])
