"""AdamW whose two moments are kept in 8 bits, each block of 256 numbers scaled by its largest, by torchao."""

from __future__ import annotations

from typing import Any

import torch

from efficientllm.errors import Unsupported
from efficientllm.records.card import Card
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.optimizers._contract import Groups, OptimizerEntry

#: Numbers that share a scale.
_BLOCK = 256

#: The moments of smaller parameters stay as they are: they weigh little, and gains are sensitive.
_SMALLEST = 4096

#: A moment brings along the table that says what each of the 256 codes stands for, in float32.
_TABLE_BYTES = 256 * 4


def build(groups: Groups, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimiser; off an accelerator it runs uncompiled, unless the settings compile.

    Raises:
        Unsupported: torchao is not installed.
    """
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise Unsupported(f"optimizer adamw8bit needs torchao ({error}): pip install 'efficientllm[lowbit]'") from error
    on_host = all(p.device.type == "cpu" for group in groups for p in group["params"])

    class Optimizer(AdamW8bit):  # type: ignore[misc] # torchao says no types
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            # torchao compiles each shape of parameter: worth it on an accelerator, half a minute of C++ on a host
            if settings.compile or not on_host:
                return super().step(closure)
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    betas = (settings.beta1, settings.beta2)
    return Optimizer(groups, lr=settings.learning_rate, betas=betas, block_size=_BLOCK)


def state_bytes(shape: torch.Size, dtype: torch.dtype) -> int:
    """Return the bytes of both moments (a byte a number, a scale a block, a table) and of the count of steps."""
    numbers = shape.numel()
    if numbers < _SMALLEST or numbers % _BLOCK:
        return 2 * numbers * dtype.itemsize + 4
    return 2 * (numbers + numbers // _BLOCK * 4 + _TABLE_BYTES) + 4


ENTRY = OptimizerEntry(
    card=Card(
        title="8-bit AdamW",
        source="arXiv:2110.02861",
        improves=("memory",),
        costs=("quality",),
        note="against AdamW: two bytes of state a weight in place of eight",
    ),
    build=build,
    state_bytes=state_bytes,
)
