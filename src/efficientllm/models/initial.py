"""The first weights: normal with a small deviation, each drawn by its own name, so that equal parts start equal."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from efficientllm.models.linear import Embedding, Linear, StackedLinear

#: Standard deviation of a dense layer's weights (GPT-2).
DEVIATION = 0.02

#: Width up to which the token vectors have that deviation too. Wider ones shrink so that a logit keeps the deviation
#: .02 * sqrt(256) = .32 at every width, and the loss at step 0 stays near ln(vocabulary).
_REFERENCE_WIDTH = 256


def initialise(
    module: nn.Module, seed: int, num_layers: int, draws_on: torch.device | None = None, prefix: str = ""
) -> None:
    """Draw the weights of all our dense and embedding layers; other parameters stay as they were made.

    A layer that writes to the residual stream is divided by sqrt(2 * num_layers) (GPT-2). The draw of a parameter
    depends on the seed, its name and the type of device (`draws_on`, or where it is) alone, so that two decoders which
    differ in one slot start with the same numbers everywhere else. `prefix` is the module's own name in the decoder.
    """
    with torch.no_grad():
        for name, part in module.named_modules(prefix=prefix):
            if isinstance(part, Linear):
                _draw(part.weight, _deviation(part, num_layers), f"{name}.weight", seed, draws_on)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, StackedLinear):
                for number, weight in enumerate(part.weight):  # by its own name: whatever the number of experts
                    _draw(weight, _deviation(part, num_layers), f"{name}.weight.{number}", seed, draws_on)
            elif isinstance(part, Embedding):
                _draw(part.weight, logit_deviation(part.embedding_dim), f"{name}.weight", seed, draws_on)


def logit_deviation(width: int) -> float:
    """Return the deviation of token vectors and head rows at this width.

    >>> logit_deviation(256), logit_deviation(1024)
    (0.02, 0.01)
    """
    return DEVIATION * min(1.0, math.sqrt(_REFERENCE_WIDTH / width))


def _deviation(layer: Linear | StackedLinear, num_layers: int) -> float:
    if isinstance(layer, Linear) and layer.makes_logits:
        return logit_deviation(layer.in_features)
    return DEVIATION / math.sqrt(2 * num_layers) if layer.writes_residual else DEVIATION


def _draw(weight: Tensor, deviation: float, name: str, seed: int, draws_on: torch.device | None) -> None:
    device = draws_on or weight.device
    generator = torch.Generator(device)
    generator.manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    for rows in _row_blocks(weight):
        rows.copy_(torch.randn(rows.shape, generator=generator, device=device) * deviation)


def _row_blocks(weight: Tensor) -> Iterator[Tensor]:
    """Yield blocks of rows of at most 64 Mi numbers, so that drawing in float32 needs little room beside the model."""
    rows = max(1, 2**26 // max(1, weight[0].numel()))
    yield from weight.split(rows)
