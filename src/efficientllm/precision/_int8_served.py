"""Products of 8-bit whole numbers: a kernel for few rows, a dense product of the codes for many."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.precision._packed_product import HAS_KERNELS, byte_rows
from efficientllm.precision._rows import dequantise_rows
from efficientllm.precision._served import ACTIVATIONS, ServedLinear

#: Columns of which the processor's kernel wants a multiple: others end in infinities or worse, without a word.
_COLUMNS = 16

#: Rows up to which the kernel is faster than to make codes bfloat16 and multiply. On a processor with bfloat16 matrix
#: units (2048 × 2048, one thread) it took .09 ms a row, the other way 1.4 ms and more.
_FEW_ROWS = {"cpu": 12, "cuda": 128 if HAS_KERNELS else 0}


class ServedInt8(ServedLinear):
    """A layer for inference over the same codes and scales."""

    def __init__(self, codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype, bias: Tensor | None) -> None:
        super().__init__((codes_OI.shape[0], codes_OI.shape[1]), dtype, bias)
        self.register_buffer("codes", codes_OI)
        self.register_buffer("scales", scales_O.to(ACTIVATIONS).view(torch.int16))  # as bits, so that no cast rounds
        self.codes: Tensor
        self.scales: Tensor
        kind = codes_OI.device.type
        self.few_rows = 0 if kind == "cpu" and self.in_features % _COLUMNS else _FEW_ROWS.get(kind, 0)

    def few(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ by torch's kernel on a processor, by this package's on CUDA."""
        if x_MI.is_cuda:
            found_MO: Tensor = byte_rows(x_MI, self.codes, self._scales(), None, x_MI.dtype)
            return found_MO
        out_MO: Tensor = torch.ops.aten._weight_int8pack_mm(x_MI, self.codes, self._scales())
        return out_MO

    def many(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ; on a processor by the product of the codes, which are exact in bfloat16."""
        if x_MI.is_cuda:  # there the matrix is made in one go, and the scales would take another pass over the results
            return F.linear(x_MI, self.matrix(x_MI.dtype))
        return F.linear(x_MI, self.codes.to(x_MI.dtype)) * self._scales()

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix, OI in this type."""
        made: Tensor = dequantise_rows(self.codes, self._scales(), dtype, None)
        return made

    def _scales(self) -> Tensor:
        return self.scales.view(ACTIVATIONS)
