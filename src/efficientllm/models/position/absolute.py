"""Sinusoidal positions: sines and cosines of growing wavelengths, added to the token vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.models.initial import logit_deviation
from efficientllm.models.position._contract import Position, PositionEntry
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class SinusoidalPosition(Position):
    """Adds sin(position / 10000^(2i/D)) to number 2i of a token vector, and the cosine to number 2i + 1.

    Both are scaled by the deviation of the first token vectors. The paper multiplies those by sqrt(D) to unit
    deviation instead, which gives the same proportion of position to token and would enlarge the residual stream.
    """

    absolute = True

    def __init__(self, shape: Shape, rotary_dim: int) -> None:
        super().__init__()
        self.width, self.amplitude = shape.width, logit_deviation(shape.width)
        self.register_buffer("frequencies", _frequencies(shape.width), persistent=False)
        self.frequencies: Tensor

    def embed(self, x_BTD: Tensor, index_BT: Tensor) -> Tensor:
        """Return the token vectors with the waves added; angles are taken in float32 whatever the model's type."""
        angles = index_BT[..., None] * self.frequencies
        waves_BTD = torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)[..., : self.width]
        return x_BTD + (self.amplitude * waves_BTD).to(x_BTD.dtype)

    def restore(self) -> None:
        """Keep the frequencies in float32: in bfloat16 far positions would blur."""
        self.frequencies = _frequencies(self.width).to(self.frequencies.device)


def _frequencies(width: int) -> Tensor:
    return 1.0 / 10_000 ** (torch.arange(0, width, 2, dtype=torch.float32) / width)


ENTRY = PositionEntry(
    card=Card(
        title="Sinusoidal absolute positions",
        source="arXiv:1706.03762",
        improves=("compute",),
        costs=("quality",),
        note="against rope; added once, before the first layer",
    ),
    build=SinusoidalPosition,
)
