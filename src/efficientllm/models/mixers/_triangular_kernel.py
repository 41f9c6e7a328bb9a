"""Triton kernel: inverses of many small unit lower triangular matrices, row after row, in float32."""

# Triton reads annotations: those of pointers and numbers must not be there.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from efficientllm.models.kernel_case import KernelCase

#: Longest side that the registers of a program hold.
MAX_SIDE = 64

_WARPS = 4


@triton.jit
def invert(below, inverse, side, WIDE: tl.constexpr) -> None:
    """Write (I + below)⁻¹: a program has one matrix; of `below` only what lies under the diagonal is read."""
    matrix = tl.program_id(0).to(tl.int64) * side * side
    rows, columns = tl.arange(0, WIDE)[:, None], tl.arange(0, WIDE)[None, :]
    along = tl.arange(0, WIDE)
    found = tl.where(rows == columns, 1.0, 0.0)
    for row in range(1, side):
        # row i of the inverse: that of the identity, less the rows before it as far as they enter row i
        factors = tl.load(below + matrix + row * side + along, mask=along < row, other=0.0)
        taken = tl.sum(factors[:, None] * found, 0)
        found = tl.where(rows == row, found - taken[None, :], found)
    inside = (rows < side) & (columns < side)
    tl.store(inverse + matrix + rows * side + columns, found, mask=inside)


@torch.library.custom_op("efficientllm::unit_lower_inverse", mutates_args=())
def unit_lower_inverse(below: Tensor) -> Tensor:
    """Return (I + below)⁻¹ for a stack of float32 matrices …LL, L at most 64; differentiable.

    What lies on and above the diagonal is not looked at, and has the gradient 0.
    """
    below = below.contiguous()
    inverse, side = torch.empty_like(below), below.shape[-1]
    wide = max(16, triton.next_power_of_2(side))
    invert[(below.numel() // side**2,)](below, inverse, side, WIDE=wide, num_warps=_WARPS)
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
    """Yield the ways in which the kernel is launched."""
    for wide in (16, 64):
        yield KernelCase(
            name=f"invert {wide}",
            kernel=invert,
            signature={"below": "*fp32", "inverse": "*fp32", "side": "i32", "WIDE": "constexpr"},
            constants={"WIDE": wide},
            options={"num_warps": _WARPS, "num_stages": 3},
        )
