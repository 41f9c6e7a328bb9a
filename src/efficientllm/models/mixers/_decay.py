"""The fading of a state by one number a head and token, as Mamba-2 and gated DeltaNet have it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The step at the start lies between these, the rate between 1 and this: Mamba-2's published ranges.
_FIRST_STEPS, _LARGEST_RATE = (0.001, 0.1), 16.0

_GOLDEN = (math.sqrt(5) - 1) / 2


class HeadDecay(nn.Module):
    """log decay = -rate · softplus(x + bias): a token's step, times the head's rate.

    First rates and steps are spread over their published ranges, evenly instead of at random, and in different order:
    so they are the same for every seed, and no head needs luck.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        heads_N = torch.arange(num_heads, dtype=torch.float32)
        rates_N = 1 + (_LARGEST_RATE - 1) * (heads_N + 0.5) / num_heads
        low, high = (math.log(step) for step in _FIRST_STEPS)
        steps_N = (low + (high - low) * (heads_N * _GOLDEN).remainder(1.0)).exp()
        self.log_rate = nn.Parameter(rates_N.log().to(torch.get_default_dtype()))
        self.step_bias = nn.Parameter((steps_N + (-(-steps_N).expm1()).log()).to(torch.get_default_dtype()))

    def forward(self, x_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """Return steps and log decays, BTN, in float32."""
        step_BTN = F.softplus(x_BTN.float() + self.step_bias.float())
        return step_BTN, -self.log_rate.float().exp() * step_BTN
