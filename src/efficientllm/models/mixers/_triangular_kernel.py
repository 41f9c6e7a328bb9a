"""Triton kernel: inverses of many small unit lower triangular matrices, in float32.

A matrix of up to 64 rows is cut into 4 × 4 blocks of 16. The inverses of the blocks on the diagonal are worked out row
after row, all four side by side; those below follow from them by products, one diagonal after the other:

    X_ij = - X_ii Σ_{j ≤ k < i} L_ik X_kj
"""

# Triton reads annotations: those of pointers and numbers must not be there.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator, union-attr"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from efficientllm.models.kernel_case import KernelCase

#: Longest side: four blocks.
MAX_SIDE = 64

_BLOCK = tl.constexpr(16)


@triton.jit
def _product(a, b) -> Any:
    """Return the product of two blocks, as exact as float32."""
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _load(below, side, row, column) -> Any:
    """Return a block, zeros beyond the matrix."""
    rows, columns = row * _BLOCK + tl.arange(0, _BLOCK)[:, None], column * _BLOCK + tl.arange(0, _BLOCK)[None, :]
    return tl.load(below + rows * side + columns, mask=(rows < side) & (columns < side), other=0.0)


@triton.jit
def _store(inverse, side, row, column, block) -> None:
    """Write a block, as far as the matrix goes."""
    rows, columns = row * _BLOCK + tl.arange(0, _BLOCK)[:, None], column * _BLOCK + tl.arange(0, _BLOCK)[None, :]
    tl.store(inverse + rows * side + columns, block, mask=(rows < side) & (columns < side))


@triton.jit
def _next_row(below, side, found, number, row) -> Any:
    """Return what is found of a diagonal block's inverse, with this row: the identity's, less those that enter it."""
    along = tl.arange(0, _BLOCK)
    begin = number * _BLOCK
    known = (along < row) & (begin + row < side)
    factors = tl.load(below + (begin + row) * side + begin + along, mask=known, other=0.0)
    taken = tl.sum(factors[:, None] * found, 0)
    return tl.where(along[:, None] == row, found - taken[None, :], found)


@triton.jit
def invert(below, inverse, side) -> None:
    """Write (I + below)⁻¹: a program has one matrix; of `below` only what lies under the diagonal is read."""
    below += tl.program_id(0).to(tl.int64) * side * side
    inverse += tl.program_id(0).to(tl.int64) * side * side
    along = tl.arange(0, _BLOCK)
    x11 = tl.where(along[:, None] == along[None, :], 1.0, 0.0)
    x22, x33, x44 = x11, x11, x11
    for row in range(1, _BLOCK):
        x11 = _next_row(below, side, x11, 0, row)
        x22 = _next_row(below, side, x22, 1, row)
        x33 = _next_row(below, side, x33, 2, row)
        x44 = _next_row(below, side, x44, 3, row)
    l21, l32, l43 = _load(below, side, 1, 0), _load(below, side, 2, 1), _load(below, side, 3, 2)
    x21 = -_product(x22, _product(l21, x11))
    x32 = -_product(x33, _product(l32, x22))
    x43 = -_product(x44, _product(l43, x33))
    l31, l42 = _load(below, side, 2, 0), _load(below, side, 3, 1)
    x31 = -_product(x33, _product(l31, x11) + _product(l32, x21))
    x42 = -_product(x44, _product(l42, x22) + _product(l43, x32))
    l41 = _load(below, side, 3, 0)
    x41 = -_product(x44, _product(l41, x11) + _product(l42, x21) + _product(l43, x31))
    nothing = tl.zeros((_BLOCK, _BLOCK), tl.float32)
    _store(inverse, side, 0, 0, x11)
    _store(inverse, side, 0, 1, nothing)
    _store(inverse, side, 0, 2, nothing)
    _store(inverse, side, 0, 3, nothing)
    _store(inverse, side, 1, 0, x21)
    _store(inverse, side, 1, 1, x22)
    _store(inverse, side, 1, 2, nothing)
    _store(inverse, side, 1, 3, nothing)
    _store(inverse, side, 2, 0, x31)
    _store(inverse, side, 2, 1, x32)
    _store(inverse, side, 2, 2, x33)
    _store(inverse, side, 2, 3, nothing)
    _store(inverse, side, 3, 0, x41)
    _store(inverse, side, 3, 1, x42)
    _store(inverse, side, 3, 2, x43)
    _store(inverse, side, 3, 3, x44)


@torch.library.custom_op("efficientllm::unit_lower_inverse", mutates_args=())
def unit_lower_inverse(below: Tensor) -> Tensor:
    """Return (I + below)⁻¹ for a stack of float32 matrices …LL, L at most 64; differentiable.

    What lies on and above the diagonal is not looked at, and has the gradient 0.
    """
    below = below.contiguous()
    inverse, side = torch.empty_like(below), below.shape[-1]
    invert[(below.numel() // side**2,)](below, inverse, side, num_warps=1)
    return inverse


@unit_lower_inverse.register_fake
def _(below: Tensor) -> Tensor:
    return torch.empty_like(below, memory_format=torch.contiguous_format)


def _differentiate(ctx: torch.autograd.function.FunctionCtx, pull: Tensor) -> Tensor:
    inverse: Tensor
    (inverse,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return -(inverse.mT @ pull @ inverse.mT).tril(-1)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output)


unit_lower_inverse.register_autograd(_differentiate, setup_context=_keep)


def aot_cases() -> Iterator[KernelCase]:
    """Yield the way in which the kernel is launched."""
    signature = {"below": "*fp32", "inverse": "*fp32", "side": "i32"}
    yield KernelCase("invert", invert, signature, {}, {"num_warps": 1, "num_stages": 3})
