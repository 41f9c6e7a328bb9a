"""Whether NSA's Triton kernels serve: they are for CUDA, and Triton is not installed everywhere."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

#: Widest head, and most query heads of a key/value head, whose tiles fit into the shared memory of all devices.
MAX_HEAD_DIM, MAX_GROUP = 128, 32

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: Least CUDA capability that the kernels are compiled for in the tests.
_LEAST_CAPABILITY = (8, 0)


class SelectedAttention(Protocol):
    """`_nsa_kernel_op.selected_attention`."""

    def __call__(
        self,
        q_BNTH: Tensor,
        k_BKSH: Tensor,
        v_BKSH: Tensor,
        starts_BKTn: Tensor,
        scale: float,
        select_block: int,
        aligned: bool,
    ) -> Tensor:
        """Return the attention of each query to its blocks, BNTH."""
        ...


def find_kernel(device: torch.device, dtype: torch.dtype, head_dim: int, group: int) -> SelectedAttention | None:
    """Return the kernels' operator if it serves these numbers on this device, else None."""
    if _OPERATOR is None or device.type != "cuda" or dtype not in _DTYPES:
        return None
    if head_dim > MAX_HEAD_DIM or group > MAX_GROUP:
        return None
    # A compiler that traces this cannot ask the device.
    if not torch.compiler.is_compiling() and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return None
    return _OPERATOR


def _load() -> SelectedAttention | None:
    """Return the operator, or None where torch knows no CUDA or Triton is missing."""
    if torch.version.cuda is None:
        return None
    try:
        from efficientllm.models.mixers._nsa_kernel_op import selected_attention
    except ImportError:
        return None
    return selected_attention


_OPERATOR = _load()
