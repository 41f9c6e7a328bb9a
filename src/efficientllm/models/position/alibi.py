"""ALiBi: each head lowers a score in proportion to the distance, at a slope of its own; nothing is learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.position._contract import Position, PositionEntry
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class LinearBiasPosition(Position):
    """Adds -slope * distance to the scores, with slopes that fall geometrically over the heads."""

    biases_scores = True

    def __init__(self, shape: Shape, rotary_dim: int) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.register_buffer("slopes_N", torch.tensor(slopes(self.num_heads), dtype=torch.float32), persistent=False)
        self.slopes_N: Tensor

    def score_bias(self, index_BT: Tensor, key_index_BS: Tensor) -> Tensor:
        """Return the penalties BNTS, in float32 whatever the model's type."""
        distance_B1TS = (index_BT[:, :, None] - key_index_BS[:, None])[:, None]
        return -self.slopes_N[:, None, None] * distance_B1TS

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return the penalties of all pairs, which the layers share."""
        return float(self.num_heads * ahead.tokens**2 * ahead.dtype_bytes)

    def restore(self) -> None:
        """Keep the slopes in float32: in bfloat16 two far distances would be one."""
        self.slopes_N = torch.tensor(slopes(self.num_heads), dtype=torch.float32, device=self.slopes_N.device)


def slopes(num_heads: int) -> list[float]:
    """Return a slope for each head: 2^(-8/n), 2^(-16/n) … for a power of two.

    Other counts take those of the next smaller power, then every other one of twice that power (the paper's rule).

    >>> slopes(4), slopes(6)[4:]
    ([0.25, 0.0625, 0.015625, 0.00390625], [0.5, 0.125])
    """
    power = 2 ** math.floor(math.log2(num_heads))
    found = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return found if power == num_heads else found + slopes(2 * power)[0::2][: num_heads - power]


ENTRY = PositionEntry(
    card=Card(
        title="Attention with linear biases",
        source="arXiv:2108.12409",
        improves=("compute",),
        costs=("quality",),
        note="against rope; no fused kernel adds it without a mask of all pairs, on CUDA one that repeats shared keys",
    ),
    build=LinearBiasPosition,
)
