"""The tokens of a step, on the device, fetched while the step before is still at work."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.data.order import TrainOrder
from efficientllm.data.packing import TokenFile
from efficientllm.records.training_settings import TrainingSettings


class StepTokens:
    """Rows of a rank's micro-batches, inputs and targets together.

    Args:
        text: the token file.
        order: which rows each step takes.
        settings: rows of a micro-batch, how many of them, and their length.
        device: where to.
    """

    def __init__(self, text: TokenFile, order: TrainOrder, settings: TrainingSettings, device: torch.device) -> None:
        self._text, self._order, self._settings, self._device = text, order, settings, device
        self._step = -1
        self._fetched: list[Tensor] = []

    def of(self, step: int) -> list[Tensor]:
        """Return the micro-batches of a step: int64, shape [micro_batch, sequence_tokens + 1] each."""
        if step != self._step:
            self.fetch(step)
        fetched, self._fetched, self._step = self._fetched, [], -1
        return fetched

    def fetch(self, step: int) -> None:
        """Send the tokens of a step to the device, without waiting for it."""
        size, passes = self._settings.micro_batch, self._settings.passes
        starts = self._order.rows(step, size * passes)
        rows = torch.from_numpy(self._text.rows(starts, self._settings.sequence_tokens))
        if self._device.type == "cuda":  # from pinned memory alone the copy runs beside the device's work
            rows = rows.pin_memory()
        self._fetched = [part.to(self._device, non_blocking=True) for part in rows.split(size)]
        self._step = step
