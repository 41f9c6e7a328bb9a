"""The operator that makes a matrix of its blocks: a Triton kernel on CUDA, the plain form elsewhere.

It is an operator of its own on every device so that a compiler sees one opaque step. Of plain operations it would see
that the backward pass makes the same matrix as the forward pass, make it once, and keep it: the memory would be gone.
For the same reason the backward pass hands in the gradient it has received: only then can the matrix be made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficientllm.precision._blocks import Blocks, plain_matrix


@torch.library.custom_op("efficientllm::dequantise", mutates_args=())
def dequantise(
    codes_P: Tensor,
    values: Tensor,
    scales_K: Tensor,
    lows_K: Tensor | None,
    offsets_G: Tensor | None,
    factors_G: Tensor | None,
    size: int,
    rows: int,
    columns: int,
    dtype: torch.dtype,
    after: Tensor | None,
) -> Tensor:
    """Return the matrix `[rows, columns]`; the fields of `Blocks` come first, `after` is not read."""
    packed = Blocks(codes_P, values, scales_K, lows_K, offsets_G, factors_G)
    if _KERNEL is None or codes_P.device.type != "cuda":
        return plain_matrix(packed, size, rows, columns, dtype)
    found: Tensor = _KERNEL.matrix(packed, size, rows, columns, dtype)
    return found


@dequantise.register_fake
def _(
    codes_P: Tensor,
    values: Tensor,
    scales_K: Tensor,
    lows_K: Tensor | None,
    offsets_G: Tensor | None,
    factors_G: Tensor | None,
    size: int,
    rows: int,
    columns: int,
    dtype: torch.dtype,
    after: Tensor | None,
) -> Tensor:
    return codes_P.new_empty(rows, columns, dtype=dtype)


def _load() -> Any:
    """Return the kernel's module, or None where torch knows no CUDA or Triton is missing."""
    if torch.version.cuda is None:
        return None
    try:
        from efficientllm.precision import _dequantise_kernel
    except ImportError:
        return None
    return _dequantise_kernel


_KERNEL = _load()
