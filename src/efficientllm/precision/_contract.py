"""What a number format is: how the matrix of a dense layer is held in it, and how it is read back.

A format of your own: of sixteen values in blocks with a scale, write only what codes a block and hand it to
`pack_blocks` of `_layer.py`, as `nf4.py` does; its layer has the kernel, the backward pass and the casts. For anything
else subclass `PackedLinear`: what is held lies in buffers of whole numbers, which no cast of the model rounds, and
`product` keeps no more than them for the backward pass. End the file with

    ENTRY = PrecisionEntry(card=..., pack=..., bits=...)

and run `efficientllm check my_format.py`, which calls the checks of `_checks.py` that every format of this folder
passes. Then use it by its path: `base_precision: ./my_format.py`. Its hash is in the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.records.card import Card


class PackedLinear(nn.Linear):
    """A dense layer whose matrix is held packed, in buffers; `weight` is made anew, in the layer's type, when read.

    It is frozen. Its forward pass differentiates with respect to what goes in, and keeps the packed matrix alone.
    """

    def packed_bytes(self) -> int:
        """Return the bytes that the matrix takes, scales and tables included; none on the device `meta`."""
        return sum(buffer.nbytes for buffer in self.buffers() if not buffer.is_meta)

    def flops_per_token(self) -> float:
        """Return the floating-point operations of one token: two for each weight, whatever it is held in."""
        return 2.0 * self.in_features * self.out_features

    def served(self) -> PackedLinear:
        """Return the layer for inference alone, on the device where this one is; by default itself.

        It may hold the matrix laid out for the device's own products, but has the same numbers, read by `weight`, and
        takes no more memory. It replaces this layer, which is to be given up: the two are not meant to be held at once.

        Raises:
            Unsupported: this matrix does not fit those products; the reason says which would.
        """
        return self

    def product(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the layer's result, or some rows of it; `forward` is all rows, and no more is kept for some."""
        raise NotImplementedError

    def corrected(self, x_MI: Tensor, down_RI: Tensor, up_OR: Tensor) -> Tensor:
        """Return the layer's result, in x's type, and up (down x), which differentiates with respect to all three."""
        out_MO: Tensor = self(x_MI).to(x_MI.dtype)
        return out_MO + F.linear(F.linear(x_MI, down_RI), up_OR)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's result, in autocast's type where it is on, else in the matrix'."""
        return self.product(x)


def _any_device(device: torch.device) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class PrecisionEntry:
    """A format's entry.

    Attributes:
        card: the technique's claim.
        pack: `pack(weight, bias, **options)` returns the layer of a matrix `[out_features, in_features]`; its keyword
            parameters are the options a recipe can set, each with a default. A matrix with NaN or infinity raises
            `UserError`.
        bits: bits of a number, its share of the scales included, with the default options.
        dtype: of a plain format, which packs nothing: the type that all weights then have; `pack` is None.
        needs_inputs: whether `pack` takes `moments_II`, the mean of x xᵀ over a layer's inputs on calibration text.
        computes_in: of a packed format, the type that activations take in the products of served layers, empty for
            the model's own: what it loses is the arithmetic's error, apart from the format's.
        supports: raises `Unsupported`, with the reason, for a device on which layers of this format cannot be served.
    """

    card: Card
    pack: Callable[..., PackedLinear] | None
    bits: float
    dtype: str = ""
    needs_inputs: bool = False
    computes_in: str = ""
    supports: Callable[[torch.device], None] = _any_device


def packed_bytes(module: nn.Module) -> int:
    """Return the bytes of all packed matrices inside a module."""
    return sum(layer.packed_bytes() for layer in module.modules() if isinstance(layer, PackedLinear))
