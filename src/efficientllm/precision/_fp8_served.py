"""Products of 8-bit floats by the device's matrix units, with a scale a row on either side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.precision._packed_product import HAS_KERNELS, byte_rows, quantised_rows
from efficientllm.precision._rows import dequantise_rows
from efficientllm.precision._served import ServedLinear

#: The type of weights and activations, and its largest number.
KIND = torch.float8_e4m3fn
LARGEST = torch.finfo(KIND).max

#: Rows and columns of a matrix of which torch's product wants a multiple.
_STEP = 16

#: Rows up to which the kernel that reads the matrix once is faster than torch's product (H200: 49 against 62 µs at 64
#: rows of 37,888 × 3584, 82 against 56 at 128).
_FEW_ROWS = 64 if HAS_KERNELS else 0


class ServedFp8(ServedLinear):
    """A layer for inference over the same codes and scales.

    A matrix whose rows or columns are no multiple of 16 is made in bfloat16 for each product.
    """

    def __init__(self, codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype, bias: Tensor | None) -> None:
        super().__init__((codes_OI.shape[0], codes_OI.shape[1]), dtype, bias)
        self.few_rows = _FEW_ROWS
        self.register_buffer("codes", codes_OI.view(torch.int8))  # as bits, so that no cast changes them
        self.register_buffer("scales", scales_O.view(torch.int32))
        self.codes: Tensor
        self.scales: Tensor

    def few(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ by this package's kernel."""
        codes_MI, scales_M1 = quantised_rows(x_MI, KIND)
        found: Tensor = byte_rows(codes_MI, self.codes.view(KIND), self._scales(), scales_M1[:, 0], x_MI.dtype)
        return found

    def many(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ by torch's product."""
        if self.in_features % _STEP or self.out_features % _STEP:
            return F.linear(x_MI, self.matrix(x_MI.dtype))
        codes_MI, scales_M1 = quantised_rows(x_MI, KIND)
        return torch._scaled_mm(
            codes_MI, self.codes.view(KIND).t(), scale_a=scales_M1, scale_b=self._scales()[None], out_dtype=x_MI.dtype
        )

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix, OI in this type."""
        made: Tensor = dequantise_rows(self.codes.view(KIND), self._scales(), dtype, None)
        return made

    def _scales(self) -> Tensor:
        return self.scales.view(torch.float32)
