"""The plain tensors that a tensor is made of: itself, or what is inside of a tensor subclass (8-bit moments, say)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def plain_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield `name` and the tensor, or for a wrapper `name/part` of all that is inside, at any depth.

    They are the tensors themselves: what is copied into them is in the wrapper. The protocol is torch's
    `__tensor_flatten__`, by which every wrapper that can be compiled says its parts.
    """
    wrapper: Any = tensor
    if not is_traceable_wrapper_subclass(wrapper):
        yield name, tensor
        return
    parts, _ = wrapper.__tensor_flatten__()
    for part in parts:
        yield from plain_tensors(f"{name}/{part}", getattr(wrapper, part))
