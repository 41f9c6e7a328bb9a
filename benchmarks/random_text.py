"""Text that nobody wrote, for benchmarks: it stands in for a token file."""

from __future__ import annotations

import numpy as np

from efficientllm.data.packing import Tokens


class RandomText:
    """Uniformly drawn tokens with the face of a `TokenFile`, as far as a training loop looks at it.

    Args:
        vocab_tokens: they are below it.
        num_tokens: how many there are.
    """

    def __init__(self, vocab_tokens: int, num_tokens: int = 1 << 23) -> None:
        self.num_tokens = num_tokens
        self._tokens = np.random.default_rng(0).integers(0, vocab_tokens, num_tokens, dtype=np.int64)

    def rows(self, starts: Tokens, sequence_tokens: int) -> Tokens:
        """Return rows of inputs with their last target, int64 [rows, sequence_tokens + 1]."""
        return self._tokens[(starts[:, None] + np.arange(sequence_tokens + 1)) % self.num_tokens]
