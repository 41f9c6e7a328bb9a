"""Eight-bit whole numbers, symmetric around zero, with one scale a row of the matrix; activations stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.precision._int8_served import ServedInt8
from efficientllm.precision._rows import RowsLinear, code_rows, largest_of_rows
from efficientllm.records.card import Card

#: The largest code; -128 stays unused.
TOP = 127


class Int8Linear(RowsLinear):
    """A layer of whole numbers, served by torch's own product on a processor and by this package's on CUDA."""

    def served(self) -> PackedLinear:
        """Return the layer for inference."""
        codes_OI, scales_O = self._held()
        return ServedInt8(codes_OI, scales_O, self.dtype, self.bias)


def pack(weight: Tensor, bias: Tensor | None) -> PackedLinear:
    """Return the layer of a matrix.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.

    Raises:
        UserError: a matrix with numbers that are not finite.
    """
    exact_O = largest_of_rows(weight) / TOP
    # Scales are bfloat16's numbers, which products in bfloat16 take without rounding, and rounded up: no code is cut.
    near_O = exact_O.bfloat16().float()
    scales_O = torch.where(near_O < exact_O, exact_O * (1 + 2**-7), exact_O).bfloat16().float()
    codes_OI = code_rows(weight, scales_O, lambda x: x.round().clamp(-TOP, TOP).to(torch.int8))
    return Int8Linear(codes_OI, scales_O, weight.dtype, bias)


ENTRY = PrecisionEntry(
    card=Card(
        title="8-bit integers, weights alone, a scale for each row",
        source="arXiv:2208.07339",
        improves=("memory", "latency", "compression"),
        costs=("quality",),
        note="without the paper's 16-bit outliers: activations are not quantised; against 16-bit weights",
    ),
    pack=pack,
    bits=8 + 32 / 4096,
    computes_in="bfloat16",
)
