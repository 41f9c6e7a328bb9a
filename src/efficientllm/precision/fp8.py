"""Eight-bit floats (e4m3: four bits of exponent, three of mantissa), one scale a row; activations too, as they come."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.errors import Unsupported
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.precision._fp8_served import KIND, LARGEST, ServedFp8
from efficientllm.precision._rows import RowsLinear, code_rows, largest_of_rows
from efficientllm.records.card import Card

#: The first compute capability whose matrix units take e4m3 (Ada).
_FROM_CAPABILITY = (8, 9)


class Fp8Linear(RowsLinear):
    """A layer of eight-bit floats, which the device's own matrix products serve."""

    def served(self) -> PackedLinear:
        """Return the layer for inference."""
        supports(self.codes.device)
        codes_OI, scales_O = self._held()
        return ServedFp8(codes_OI, scales_O, self.dtype, self.bias)


def supports(device: torch.device) -> None:
    """Refuse devices that have no matrix product of this type."""
    if device.type != "cuda":
        raise Unsupported(f"fp8: a {device.type} device has no matrix product of 8-bit floats; CUDA from Ada on has")
    found = torch.cuda.get_device_capability(device)
    if found < _FROM_CAPABILITY:
        wanted = ".".join(map(str, _FROM_CAPABILITY))
        raise Unsupported(
            f"fp8: {torch.cuda.get_device_name(device)} has compute capability {found[0]}.{found[1]}, and its matrix "
            f"units no 8-bit floats; {wanted} and later have"
        )


def pack(weight: Tensor, bias: Tensor | None) -> PackedLinear:
    """Return the layer of a matrix.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.

    Raises:
        UserError: a matrix with numbers that are not finite.
    """
    scales_O = largest_of_rows(weight) / LARGEST
    codes_OI = code_rows(weight, scales_O, lambda x: x.clamp(-LARGEST, LARGEST).to(KIND))
    return Fp8Linear(codes_OI, scales_O, weight.dtype, bias)


ENTRY = PrecisionEntry(
    card=Card(
        title="8-bit floats (e4m3), weights and activations, a scale for each row",
        source="arXiv:2209.05433",
        improves=("memory", "compute", "latency", "throughput", "compression"),
        costs=("quality",),
        note="activations get a scale a token, as they come; against 16-bit floats",
    ),
    pack=pack,
    bits=8 + 32 / 4096,
    computes_in="float8_e4m3fn",
    supports=supports,
)
