"""What needs no model on instruction data: token frequencies, and the commonest training response to every prompt.

A model that does not clear these has learned nothing from the prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from efficientllm.data._encode_samples import NOT_LEARNED, Encoded
from efficientllm.data.packing import Tokens
from efficientllm.data.sanity import unigram_bits_per_byte
from efficientllm.data.tokenizer import Tokenizer

#: Rows that are counted at once: rows on disk are read by memory map, and may be many.
_ROWS_AT_ONCE = 4096
#: So much of an answer stands in a record.
_SHOWN_CHARACTERS = 80


class Commonest(msgspec.Struct, frozen=True, kw_only=True):
    """What training samples say most often, the first of equals.

    Attributes:
        targets: all tokens that are learned of a sample.
        answer: what is right or wrong of a sample, see `asked_of`.
    """

    targets: tuple[int, ...] = ()
    answer: str = ""

    def shown(self) -> str:
        """Return the answer for a record, cut."""
        long = len(self.answer) > _SHOWN_CHARACTERS
        return f"{self.answer[:_SHOWN_CHARACTERS]}…" if long else self.answer


def commonest_of(samples: Sequence[Encoded]) -> Commonest:
    """Return what training samples say most often."""
    if not samples:
        return Commonest()
    responses = Counter(learned_targets(sample).tobytes() for sample in samples)
    answers = Counter(asked_of(sample) for sample in samples)
    targets = np.frombuffer(responses.most_common(1)[0][0], dtype=np.int64)
    return Commonest(targets=tuple(targets.tolist()), answer=answers.most_common(1)[0][0])


def learned_targets(sample: Encoded) -> Tokens:
    """Return the tokens of a sample that are to be predicted, in order: int64 [M]."""
    targets_N = sample.targets()
    return np.asarray(targets_N[targets_N != NOT_LEARNED], dtype=np.int64)


def asked_of(sample: Encoded) -> str:
    """Return what a response of one's own must end with: the answer, or the whole response where there is none."""
    return sample.answer or sample.response.strip()


def target_counts(targets_RT: npt.NDArray[np.int32], vocab_tokens: int) -> npt.NDArray[np.int64]:
    """Return how often each id is a target, [vocab_tokens]."""
    counts_V = np.zeros(vocab_tokens, dtype=np.int64)
    for start in range(0, len(targets_RT), _ROWS_AT_ONCE):
        some = targets_RT[start : start + _ROWS_AT_ONCE]
        counts_V += np.bincount(some[some != NOT_LEARNED], minlength=vocab_tokens)
    return counts_V


def floor_figures(
    train_targets_RT: npt.NDArray[np.int32],
    commonest: Commonest,
    heldout: Sequence[Encoded],
    num_asked: int,
    tokenizer: Tokenizer,
) -> dict[str, float]:
    """Return what the held-out samples that judge come to without a model.

    Args:
        train_targets_RT: targets of the rows that are trained on, -100 where nothing is learned.
        commonest: of the training samples.
        heldout: the samples that judge.
        num_asked: how many of them, the first ones, are asked for their answer.
        tokenizer: the model's.

    Returns:
        `unigram_bits_per_byte` of the responses (add-one smoothed frequencies of the training targets);
        `commonest_response_ratio`, the share of samples whose response is the commonest training one; where answers
        are asked for `commonest_answer_ratio`, likewise.
    """
    targets = [learned_targets(sample) for sample in heldout]
    together_M = np.concatenate(targets)
    figures = {}
    num_bytes = int(tokenizer.byte_lengths[together_M].sum())
    if num_bytes:  # responses of special tokens alone stand for no text
        counts_V = target_counts(train_targets_RT, len(tokenizer.byte_lengths))
        figures["unigram_bits_per_byte"] = unigram_bits_per_byte(counts_V, together_M, num_bytes)
    alike = [tuple(found.tolist()) == commonest.targets for found in targets]
    figures["commonest_response_ratio"] = sum(alike) / len(heldout)
    asked = heldout[:num_asked]
    if asked:
        figures["commonest_answer_ratio"] = sum(asked_of(s) == commonest.answer for s in asked) / len(asked)
    return figures
