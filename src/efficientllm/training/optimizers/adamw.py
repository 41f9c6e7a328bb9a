"""AdamW by torch's fused kernel: two moments a weight, in the weight's own number format."""

from __future__ import annotations

import torch

from efficientllm.records.card import Card
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.optimizers._contract import Groups, OptimizerEntry


def build(groups: Groups, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimiser."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)


def state_bytes(shape: torch.Size, dtype: torch.dtype) -> int:
    """Return two numbers of the weight's type for each weight, and the count of steps."""
    return 2 * shape.numel() * dtype.itemsize + 4


ENTRY = OptimizerEntry(
    card=Card(title="AdamW", source="arXiv:1711.05101", improves=("quality",), costs=("memory",)),
    build=build,
    state_bytes=state_bytes,
)
