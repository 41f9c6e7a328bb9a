"""Rows of packed samples, of which the responses alone are targets, on the device a step ahead."""

from __future__ import annotations

import numpy as np
import torch

from efficientllm.data.order import permuted_places
from efficientllm.data.samples import PackedRows
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.training.ranks import ALONE, Ranks
from efficientllm.training.tokens import MicroBatch, StepBatches, send


class StepSamples(StepBatches):
    """Rows of whole samples, in a new permutation each epoch, dealt out to ranks without overlap or gap.

    Args:
        rows: the packed samples.
        settings: rows of a micro-batch, and how many of them.
        device: where to.
        seed: of the order.
        ranks: which share of each step is this rank's.
    """

    def __init__(
        self,
        rows: PackedRows,
        settings: FinetuneSettings,
        device: torch.device,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self._rows, self._settings, self._device, self._seed, self._ranks = rows, settings, device, seed, ranks

    def sent(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of a step, on their way to the device."""
        size, world = self._settings.micro_batch, self._ranks.world
        each = size * self._settings.passes
        places = permuted_places(self._rows.num_rows, self._seed, step * each * world, each * world)
        mine = places[self._ranks.rank * each : (self._ranks.rank + 1) * each]
        # Loss and gradients are means over ranks: times `world`, they are sums.
        weight = world / max(1, int(self._rows.learned_targets[places].sum()))
        return [self._micro_batch(mine[at : at + size], weight) for at in range(0, each, size)]

    def _micro_batch(self, places: np.ndarray, weight: float) -> MicroBatch:
        planes = np.asarray(self._rows.planes[:, places], dtype=np.int64)
        tokens, targets, ids = send(torch.from_numpy(planes), self._device)
        share = float(self._rows.learned_targets[places].sum()) * weight
        if self._rows.apart:
            return MicroBatch(tokens, targets, None, share)
        # One number for all steps: what depends on it is compiled for each number anew.
        return MicroBatch(tokens, targets, ids.int(), share, len(places) * self._rows.most_sequences)
