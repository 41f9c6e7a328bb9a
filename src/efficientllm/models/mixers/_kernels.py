"""The kernels of flash-linear-attention (extra `fla`), where they are installed, serve the device and are right.

They are for bfloat16 and float16 on CUDA. In float32 they multiply in TF32, so there torch's own products are kept.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from efficientllm.models.linear import is_low_precision

#: The package whose version is told.
_PACKAGE = "fla-core"


@dataclass(frozen=True)
class Kernel:
    """A function of flash-linear-attention.

    Attributes:
        module, name: where it is.
        gated_backward: whether its gradients go through `chunk_bwd_dqkwg`, which some versions of Triton compile
            wrongly for Hopper devices.
    """

    module: str
    name: str
    gated_backward: bool = False

    def find(self, device: torch.device, dtype: torch.dtype, *, gradients: bool) -> Callable[..., Any] | None:
        """Return the function if it serves these numbers on this device, else None."""
        if device.type != "cuda" or not is_low_precision(dtype):
            return None
        if gradients and self.gated_backward and _gated_backward_is_wrong():
            return None
        return _load(self.module, self.name)


def version() -> str:
    """Return the version of flash-linear-attention that is installed."""
    return importlib.metadata.version(_PACKAGE)


@functools.cache
def _load(module: str, name: str) -> Callable[..., Any] | None:
    """Return the function, or None where the package, Triton or this part of it is missing."""
    try:
        found: Callable[..., Any] | None = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found


@functools.cache
def _gated_backward_is_wrong() -> bool:
    """Whether fla would refuse: Triton from 3.4.0 to before 3.7.1 on Hopper, without the tilelang package."""
    try:
        flags = importlib.import_module("fla.utils")
    except ImportError:
        return False
    hopper, since, mended = (
        getattr(flags, name, False) for name in ("IS_NVIDIA_HOPPER", "TRITON_ABOVE_3_4_0", "TRITON_ABOVE_3_7_1")
    )
    return bool(hopper and since and not mended) and importlib.util.find_spec("tilelang") is None
