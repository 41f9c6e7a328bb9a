"""What chunks of a recurrence cannot do side by side: solve for what their tokens write, and hand states on.

On CUDA by Triton kernels (`_triangular_kernel.py`, `_carry_kernel.py`), elsewhere or without Triton by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor


class _Kernels(NamedTuple):
    triangular: ModuleType
    carry: ModuleType


def solved(product: Callable[[Tensor, Tensor], Tensor], below_BCNLL: Tensor, right_BCNLX: Tensor) -> Tensor:
    """Return X of (I + below) X = right, float32; the diagonal of `below` and what lies above are not looked at.

    Args:
        product: how large products are taken.
        below_BCNLL: strictly lower triangular matrices.
        right_BCNLX: right sides.
    """
    kernels = _KERNELS if below_BCNLL.device.type == "cuda" else None
    if kernels is not None and below_BCNLL.shape[-1] <= kernels.triangular.MAX_SIDE:
        inverse: Tensor = torch.ops.efficientllm.unit_lower_inverse(below_BCNLL)
        return product(inverse, right_BCNLX)
    found: Tensor = torch.linalg.solve_triangular(below_BCNLL, right_BCNLX, upper=False, unitriangular=True)
    return found


def carried(
    decay: Tensor,
    write_BC: Tensor,
    start_B: Tensor | None,
    mix_BCNHH: Tensor | None = None,
    factors: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and the last: state ← decay ∘ state + mix state + write; all float32.

    Args:
        decay: broadcastable to `write_BC`, alike along its last axis.
        write_BC: what each chunk writes: B, C and three axes.
        start_B: the state before the first chunk, or None for zeros.
        mix_BCNHH: matrices from the left, over the state's next to last axis.
        factors: type in which large products are taken.
    """
    kernels = _KERNELS if write_BC.device.type == "cuda" else None
    if kernels is not None and (mix_BCNHH is None or write_BC.shape[3] <= kernels.carry.MAX_MIXED):
        coarse = factors == torch.bfloat16
        on: tuple[Tensor, Tensor]
        on = torch.ops.efficientllm.carry_states(decay, mix_BCNHH, write_BC, start_B, False, coarse)
        return on
    return carried_one_by_one(decay, write_BC, start_B, mix_BCNHH)


def carried_one_by_one(
    decay: Tensor, write_BC: Tensor, start_B: Tensor | None, mix_BCNHH: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Do what `carried` does, chunk after chunk: the form that the kernel is held to."""
    state_B = torch.zeros_like(write_BC[:, 0]) if start_B is None else start_B
    before = []
    mixes = [None] * write_BC.shape[1] if mix_BCNHH is None else mix_BCNHH.unbind(1)
    for write_B, decay_B, mix_BNHH in zip(write_BC.unbind(1), decay.unbind(1), mixes, strict=True):
        before.append(state_B)
        kept_B = torch.addcmul(write_B, decay_B, state_B)
        state_B = kept_B if mix_BNHH is None else kept_B + mix_BNHH @ state_B
    return torch.stack(before, 1), state_B


def _load() -> _Kernels | None:
    """Return the kernels' modules, or None where torch knows no CUDA or Triton is missing."""
    if torch.version.cuda is None:
        return None
    try:
        from efficientllm.models.mixers import _carry_kernel, _triangular_kernel
    except ImportError:
        return None
    return _Kernels(_triangular_kernel, _carry_kernel)


_KERNELS = _load()
