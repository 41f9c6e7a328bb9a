"""Four-bit whole numbers, rounded to nearest between the least and the largest of each group of 128.

A number is `(code - 8) * scale + zero`, scale and zero of its group in bfloat16: exactly what torch's products of 4-bit
matrices compute with, so that a layer is served by them without being rounded once more.
"""

from __future__ import annotations

from torch import Tensor

from efficientllm.precision._affine import pack_nearest
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.records.card import Card


def pack(weight: Tensor, bias: Tensor | None, group: int = 128) -> PackedLinear:
    """Return the layer of a matrix.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.
        group: numbers along the input that share a step and a zero, a power of two from 16 to 1024.

    Raises:
        UserError: another group size, or a matrix with numbers that are not finite.
    """
    return pack_nearest(weight, bias, group, "int4: group")


ENTRY = PrecisionEntry(
    card=Card(
        title="4-bit integers in groups, rounded to nearest",
        source="arXiv:2210.17323",
        improves=("memory", "latency", "compression"),
        costs=("quality",),
        note="the baseline that GPTQ compares with; latency of decoding, against 16-bit weights",
    ),
    pack=pack,
    bits=4 + 2 * 16 / 128,
    computes_in="bfloat16",
)
