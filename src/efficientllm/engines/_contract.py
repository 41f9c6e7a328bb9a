"""What an engine is: something that holds a model and serves it, one batch at a time.

    open ─ begin(batch, room) ─ prefill(prompt) ─ mark ─ decode ─ decode … ─ rewind ─ decode …
                                                                           └ begin(another batch, room) …

Tokens are int64 tensors, anywhere; those that lie on `engine.device` already cost no copy. Letters as in
`models/mixers/_contract.py`. Results may be overwritten by the next call: copy what is to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from efficientllm.records.card import Card
from efficientllm.records.measurement import ModelFacts
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Work

#: Token ids of prompts: BT where all have one length, else a list each; at least one token in each.
Prompts = Tensor | Sequence[Sequence[int]]


class Engine(Protocol):
    """A model that is ready to serve."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as they are held, shared ones once."""
        ...

    @property
    def length(self) -> int:
        """Tokens that each sequence of the present batch has behind it."""
        ...

    def begin(self, batch: int, max_tokens: int) -> None:
        """Start a batch of empty sequences with room for so many tokens each; the batch before is given up.

        Raises:
            Unsupported: the model's positions do not reach so far, or its checkpoint was not made for so many tokens.
        """
        ...

    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Add a piece of prompt to each sequence and return the logits after its last token, BV."""
        ...

    def decode(self, tokens_B: Tensor) -> Tensor:
        """Add one token to each sequence and return the logits after it, BV."""
        ...

    def mark(self) -> None:
        """Remember this point, so that `rewind` can come back to it."""
        ...

    def rewind(self, length: int) -> None:
        """Forget all tokens from `length` on, in each sequence: 0, or a length that was marked in this batch."""
        ...

    def score(self, tokens_BT: Tensor) -> tuple[float, int]:
        """Return the summed loss in nats of every token after the first of its row, and how many those are.

        In float32, whatever the weights are; the present batch is not touched.
        """
        ...

    def generate(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Return the `new_tokens` likeliest next tokens, one after the other, as Bn; starts a batch of its own.

        Prompts may have different lengths; each gets what it gets alone.
        """
        ...

    def facts(self) -> ModelFacts:
        """Return the model's counts."""
        ...

    def prefill_work(self, batch: int, tokens: int) -> Work:
        """Return the work of one prefill of an empty batch."""
        ...

    def decode_work(self, batch: int, context: int) -> Work:
        """Return the work of one decode after `context` tokens."""
        ...

    def close(self) -> None:
        """Give up the model and its memory."""
        ...


@runtime_checkable
class Exact(Protocol):
    """An engine that can say what its weights give when nothing is rounded on the way."""

    def exact_logits(self, tokens_BT: Tensor, last: int, *, rounding: bool = False) -> Tensor:
        """Return the logits after the last tokens, BnV, by float32 arithmetic on the weights as they are read.

        Args:
            tokens_BT: token ids.
            last: how many.
            rounding: whether numbers are rounded on the way as the engine's types do: what that alone moves.

        Raises:
            Unsupported: the weights cannot be read.
        """
        ...


class Open(Protocol):
    """How an engine is opened."""

    def __call__(
        self,
        settings: InferenceSettings,
        *,
        folder: Path | None,
        vocab_tokens: int,
        seed: int,
        device: str,
        threads: int,
        calibration_BT: Tensor | None = None,
    ) -> Engine:
        """Load or build the model and return the engine.

        Args:
            settings: the workload's; `engine.options` are the engine's own.
            folder: a saved model, or None for random weights of the settings' size.
            vocab_tokens: vocabulary of random weights.
            seed: of random weights.
            device: `cpu`, `cuda` or `cuda:N`.
            threads: processor threads to use; 0 leaves them as they are.
            calibration_BT: rows of training text, for a number format that is fitted to some.

        Raises:
            UserError: settings that make no model, or a folder without one.
            Unsupported: this engine, or this device, cannot do it.
        """
        ...


@dataclass(frozen=True)
class EngineEntry:
    """An engine's entry.

    Attributes:
        card: the technique's claim.
        open: returns the engine, with its model.
        load_library: imports what `open` stands on: what a library takes is no memory of its engine.
    """

    card: Card
    open: Open
    load_library: Callable[[], None] = lambda: None
