"""Numbers in eight bits with a scale for a few of them: what the formats of the cache have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.errors import UserError


class ScaledCoder:
    """A number is code * scale; its neighbours along the last axis, a group of them, share the scale, a bfloat16.

    The scale is that of the largest of a group, as it is held: codes are chosen for the rounded scale.

    Args:
        group: numbers that share a scale; 0 = the whole axis, a head's vector.

    Attributes:
        name: the format's, for messages.
        held_in: type in which codes lie in memory; one that every operation which moves numbers knows.
        largest: the largest code.
    """

    name: str
    held_in: torch.dtype
    largest: float

    def __init__(self, group: int = 0) -> None:
        if isinstance(group, bool) or not isinstance(group, int) or group < 0:
            raise UserError(f"{self.name}: group {group!r}: give a whole number, 0 for a whole head.")
        self.group = group

    def allocate(self, *shape: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
        """Return codes and scales of zeros: what is masked is still multiplied by 0, and 0 * NaN is NaN.

        Raises:
            UserError: a group that does not divide the last axis.
        """
        width = shape[-1]
        if self.group and width % self.group:
            raise UserError(
                f"{self.name}: group {self.group} does not divide the {width} numbers of a head. "
                "Choose a divisor, or 0 for the whole head."
            )
        codes = torch.zeros(shape, dtype=self.held_in, device=device)
        scales = torch.zeros(*shape[:-1], width // (self.group or width), dtype=torch.bfloat16, device=device)
        return codes, scales

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return codes and scales of numbers."""
        grouped = x.float().unflatten(-1, (-1, self.group or x.shape[-1]))
        scales = (grouped.abs().amax(-1, keepdim=True) / self.largest).bfloat16()
        held: Tensor = scales.float()
        per_scale: Tensor = (grouped / torch.where(held == 0, 1.0, held)).clamp(-self.largest, self.largest)
        return self.to_codes(per_scale).flatten(-2), scales.squeeze(-1)

    def decode(self, coded: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Return the numbers; in float16, where a scale can be too small for the type, by way of float32."""
        codes, scales = coded
        through = torch.float32 if dtype == torch.float16 else dtype
        grouped = self.from_codes(codes, through).unflatten(-1, (scales.shape[-1], -1))
        numbers: Tensor = grouped * scales.to(through)[..., None]
        return numbers.flatten(-2).to(dtype)

    def to_codes(self, per_scale: Tensor) -> Tensor:
        """Return numbers from -largest to largest as codes."""
        raise NotImplementedError

    def from_codes(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return codes as numbers from -largest to largest."""
        raise NotImplementedError
