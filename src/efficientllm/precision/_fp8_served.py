"""Products of 8-bit floats by the device's matrix units, with a scale a row on either side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.precision._served import ServedLinear

#: The type of weights and activations, and its largest number.
KIND = torch.float8_e4m3fn
LARGEST = torch.finfo(KIND).max

#: Rows and columns of a matrix of which the product wants a multiple.
_STEP = 16


class ServedFp8(ServedLinear):
    """A layer for inference over the same codes and scales.

    A matrix whose rows or columns are no multiple of 16 is made in bfloat16 for each product.
    """

    def __init__(self, codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype, bias: Tensor | None) -> None:
        super().__init__((codes_OI.shape[0], codes_OI.shape[1]), dtype, bias)
        self.register_buffer("codes", codes_OI.view(torch.int8))  # as bits, so that no cast changes them
        self.register_buffer("scales", scales_O.view(torch.int32))
        self.codes: Tensor
        self.scales: Tensor

    def many(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ; at no number of rows is there anything faster."""
        if self.in_features % _STEP or self.out_features % _STEP:
            return F.linear(x_MI, self.matrix(x_MI.dtype))
        codes_MI, scales_M1 = quantised_rows(x_MI)
        scales_1O = self.scales.view(torch.float32)[None]
        return torch._scaled_mm(
            codes_MI, self.codes.view(KIND).t(), scale_a=scales_M1, scale_b=scales_1O, out_dtype=x_MI.dtype
        )

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix, OI in this type."""
        return (self.codes.view(KIND).float() * self.scales.view(torch.float32)[:, None]).to(dtype)


def quantised_rows(x_MI: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as 8-bit floats, and the scale of each, M1 in float32: the largest number takes the largest code."""
    scales_M1 = x_MI.abs().amax(1, keepdim=True).float() / LARGEST
    # A row of zeros, or nearly: any scale serves, but none may be so small that its inverse is not a number.
    scales_M1 = scales_M1.clamp(min=torch.finfo(torch.float32).tiny)
    return (x_MI.float() / scales_M1).clamp(-LARGEST, LARGEST).to(KIND), scales_M1
