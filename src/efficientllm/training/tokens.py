"""What a step trains on, on the device, fetched while the step before is still at work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from efficientllm.data.order import TrainOrder
from efficientllm.data.packing import TokenFile
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass is given.

    Attributes:
        tokens: BT, int64.
        targets: BT, the token that each one should tell, or -100 where none counts.
        sequence_ids: BT, tokens with different ids never see each other; None where each row is one sequence.
        share: of the step's loss: its targets that count over those of all passes and ranks.
        most_sequences: the rows together have no more sequences than this, where `sequence_ids` are given.
    """

    tokens: Tensor
    targets: Tensor
    sequence_ids: Tensor | None
    share: float
    most_sequences: int = 0


class StepBatches(ABC):
    """The micro-batches of each step of one rank, sent to the device before they are asked for."""

    def __init__(self) -> None:
        self._step = -1
        self._fetched: list[MicroBatch] = []

    def of(self, step: int) -> list[MicroBatch]:
        """Return those of a step."""
        if step != self._step:
            self.fetch(step)
        fetched, self._fetched, self._step = self._fetched, [], -1
        return fetched

    def fetch(self, step: int) -> None:
        """Send those of a step to the device, without waiting for it."""
        self._fetched, self._step = self.sent(step), step

    @abstractmethod
    def sent(self, step: int) -> list[MicroBatch]:
        """Return those of a step, on their way to the device."""


class StepTokens(StepBatches):
    """Rows of running text, of which every token but the first is a target.

    Args:
        text: the token file.
        settings: rows of a micro-batch, how many of them, and their length.
        device: where to.
        seed: of the order.
        ranks: which share of each step is this rank's.
    """

    def __init__(
        self, text: TokenFile, settings: TrainingSettings, device: torch.device, seed: int, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self._text, self._settings, self._device = text, settings, device
        self._order = TrainOrder(text.num_tokens, settings.sequence_tokens, seed, ranks.rank, ranks.world)

    def sent(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of a step, on their way to the device."""
        size, passes = self._settings.micro_batch, self._settings.passes
        starts = self._order.rows(step, size * passes)
        rows = send(torch.from_numpy(self._text.rows(starts, self._settings.sequence_tokens)), self._device)
        return [MicroBatch(part[:, :-1], part[:, 1:], None, 1.0 / passes) for part in rows.split(size)]


def send(rows: Tensor, device: torch.device) -> Tensor:
    """Return host rows on the device, without waiting for it."""
    if device.type == "cuda":  # from pinned memory alone the copy runs beside the device's work
        rows = rows.pin_memory()
    return rows.to(device, non_blocking=True)
