"""Looks at held-out text while training goes on; they change nothing of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from efficientllm.data.packing import TokenFile, Tokens
from efficientllm.devices._contract import Device
from efficientllm.models.cross_entropy import IGNORE
from efficientllm.models.decoder import Decoder
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.training_settings import TrainingSettings

#: Inputs and targets, [rows, tokens] each; a target that is `IGNORE` does not count.
Rows = tuple[Tokens, Tokens]

_ROWS_AT_ONCE = 8


class Evaluation:
    """The loss on held-out rows that share nothing with those that judge the trained model.

    Attributes:
        num_tokens: that each look predicts.
        elapsed_s: time that all looks so far have taken.
    """

    def __init__(
        self,
        decoder: Decoder,
        settings: TrainingSettings,
        rows: Rows | None,
        device: Device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> None:
        """Take the rows; None where there is no look."""
        self._decoder, self._device, self._autocast = decoder, device, autocast
        self._settings, self._every = settings, settings.evaluate_every if rows is not None else 0
        nothing = np.empty((0, 1), dtype=np.int64)
        self._tokens_RT, self._targets_RT = (nothing, nothing) if rows is None else rows
        self.num_tokens = int((self._targets_RT != IGNORE).sum())
        self.elapsed_s = 0.0

    def due(self, steps_done: int) -> bool:
        """Whether a look comes after so many steps."""
        return self._every > 0 and steps_done > 0 and steps_done % self._every == 0

    def loss(self) -> float:
        """Return the mean loss in nats a token."""
        self._device.synchronize()
        begin_s = time.perf_counter()
        nats = []
        with self._autocast(), as_it_is(self._settings), undisturbed(self._decoder):
            for start in range(0, len(self._tokens_RT), _ROWS_AT_ONCE):
                some = slice(start, start + _ROWS_AT_ONCE)
                tokens, targets = (
                    torch.from_numpy(x[some]).to(self._device.torch_device())
                    for x in (self._tokens_RT, self._targets_RT)
                )
                nats.append(self._decoder.loss_sum(tokens, targets)[0])
        mean = float(torch.stack(nats).sum()) / self.num_tokens
        self.elapsed_s += time.perf_counter() - begin_s
        return mean


@contextlib.contextmanager
def undisturbed(decoder: Decoder) -> Iterator[None]:
    """Let adapters drop nothing for the time of this block."""
    was = decoder.training
    decoder.eval()
    try:
        yield
    finally:
        decoder.train(was)


def as_it_is(settings: ModelSettings) -> contextlib.AbstractContextManager[Any]:
    """Return a region in which layers compiled for training run uncompiled: other shapes would compile them anew."""
    if not settings.compile:
        return contextlib.nullcontext()
    region: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return region


def evaluation_rows(heldout: TokenFile, settings: TrainingSettings) -> Tokens:
    """Return rows for `evaluate_tokens` targets, as many as `heldout_tokens` fill at most, one at least.

    They are spread over the `valid` rows that belong to the trial's own `test` rows: these alone share nothing with
    them.
    """
    valid_RT, _ = heldout.heldout_rows(settings.sequence_tokens, settings.heldout_tokens, "valid")
    wanted = min(len(valid_RT), max(1, settings.evaluate_tokens // settings.sequence_tokens))
    return valid_RT[np.arange(wanted) * len(valid_RT) // wanted]
