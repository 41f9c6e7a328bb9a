"""Rotary positions: queries and keys are turned by angles that grow with the position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from efficientllm.errors import Unsupported
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.position._contract import Position, PositionEntry
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class RotaryPosition(Position):
    """Turns each pair (i, i + H/2) of a head by position * theta^(-2i/H): the convention of Llama and Qwen.

    With `shape.rotary_share` below 1 the same is done to the first numbers of a head alone (GPT-NeoX), H being theirs.
    """

    rotates = True
    family = True

    def __init__(self, shape: Shape, rotary_dim: int) -> None:
        super().__init__()
        self.shape, self.rotary_dim = shape, int(rotary_dim * shape.rotary_share)
        self.partial = self.rotary_dim < rotary_dim
        if self.rotary_dim % 2 or (self.partial and not self.rotary_dim):
            raise Unsupported(_odd(shape, rotary_dim, self.rotary_dim))
        self.register_buffer("frequencies", inverse_frequencies(shape, self.rotary_dim), persistent=False)
        self.frequencies: Tensor

    def prepare(self, index_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosine and signed sine, each B1TH; angles are taken in float32 whatever the model's type."""
        angles = index_BT[:, None, :, None] * self.frequencies
        sine = angles.sin()
        return torch.cat((c := angles.cos(), c), -1).to(dtype), torch.cat((-sine, sine), -1).to(dtype)

    def rotate(self, q_BNTH: Tensor, k_BKTH: Tensor, prepared: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return both turned."""
        cosine, sine = prepared
        if self.partial:
            return self._turn_part(q_BNTH, cosine, sine), self._turn_part(k_BKTH, cosine, sine)
        return _turn(q_BNTH, cosine, sine), _turn(k_BKTH, cosine, sine)

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return cosine and sine of each position."""
        return 2.0 * ahead.tokens * self.rotary_dim * ahead.dtype_bytes

    def restore(self) -> None:
        """Keep the frequencies in float32: in bfloat16 far positions would blur."""
        self.frequencies = inverse_frequencies(self.shape, self.rotary_dim).to(self.frequencies.device)

    def _turn_part(self, x_BNTH: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        turned, rest = x_BNTH[..., : self.rotary_dim], x_BNTH[..., self.rotary_dim :]
        return torch.cat((_turn(turned, cosine, sine), rest), -1)


def _turn(x_BNTH: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    return torch.addcmul(x_BNTH * cosine, x_BNTH.roll(x_BNTH.shape[-1] // 2, -1), sine)


def _odd(shape: Shape, rotary_dim: int, turned: int) -> str:
    share = f" (shape.rotary_share {shape.rotary_share:g} of {rotary_dim})" if shape.rotary_share < 1 else ""
    return f"rope turns pairs: {turned} numbers of a head{share} are no pairs; choose an even width or another position"


def inverse_frequencies(shape: Shape, rotary_dim: int) -> Tensor:
    """Return the angle a position of each pair, H/2 numbers in float32, stretched as `rope_scaling` says.

    `linear` divides all by the factor. `llama3` divides the slow ones, whose wave is longer than the original context
    over `low_freq_factor`, leaves the fast ones, and blends between (Llama 3.1's published rule).
    """
    frequencies = 1.0 / shape.rope_theta ** (torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim)
    if shape.rope_scaling == "linear":
        return frequencies / shape.rope_factor
    if shape.rope_scaling == "llama3":
        waves = shape.rope_original_positions * frequencies / (2 * math.pi)  # turns within the original context
        low, high = shape.rope_low_freq_factor, shape.rope_high_freq_factor
        keep = ((waves - low) / (high - low)).clamp(0, 1)
        return frequencies * (keep + (1 - keep) / shape.rope_factor)
    return frequencies


ENTRY = PositionEntry(
    card=Card(
        title="Rotary position embedding",
        source="arXiv:2104.09864",
        improves=("quality",),
        costs=("compute",),
    ),
    build=RotaryPosition,
)
