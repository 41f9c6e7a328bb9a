"""What needs no model: a general compressor and token frequencies, in bits per byte of the same held-out text.

A model that does not beat both has learned nothing worth measuring.
"""

from __future__ import annotations

import bz2
import math

import numpy as np
import numpy.typing as npt


def bz2_bits_per_byte(text: bytes) -> float:
    """Return the size of the bz2-compressed text in bits per byte of the text.

    >>> bz2_bits_per_byte(b"a" * 10_000) < 0.1
    True
    """
    return 8 * len(bz2.compress(text, compresslevel=9)) / len(text)


def unigram_bits_per_byte(
    train_counts: npt.NDArray[np.int64], heldout_tokens: npt.NDArray[np.int64], heldout_bytes: int
) -> float:
    """Return the code length of held-out tokens under the training split's token frequencies, in bits per byte.

    The probability of id t is (count(t) + 1) / (tokens + vocabulary): add-one smoothing.

    Args:
        train_counts: how often each id occurs in the training split, shape [vocab_tokens].
        heldout_tokens: the judged tokens (targets), any shape.
        heldout_bytes: UTF-8 bytes that they stand for.

    >>> unigram_bits_per_byte(np.array([0, 0]), np.array([0, 1, 1, 0]), heldout_bytes=2)
    2.0
    """
    bits = math.log2(int(train_counts.sum()) + len(train_counts)) - np.log2(train_counts + 1.0)
    return float(bits[heldout_tokens].sum() / heldout_bytes)
