"""Whether NSA's Triton kernels serve: they are for CUDA, and Triton is not installed everywhere."""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor

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


def find_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> SelectedAttention | None:
    """Return the kernels' operator if it serves these numbers on this device, else None."""
    if device.type != "cuda" or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    found = _load()
    if found is None or head_dim > found[1] or torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return None
    return found[0]


def rows_of(group: int) -> int:
    """Return the rows to which a group of query heads is padded for the tensor cores.

    >>> rows_of(7), rows_of(16), rows_of(20)
    (16, 16, 32)
    """
    return max(16, 1 << (group - 1).bit_length())


@functools.cache
def _load() -> tuple[SelectedAttention, int] | None:
    """Return the operator and the widest head that it takes, or None where Triton is missing."""
    try:
        from efficientllm.models.mixers._nsa_kernel_op import MAX_HEAD_DIM, selected_attention
    except ImportError:
        return None
    return selected_attention, MAX_HEAD_DIM
