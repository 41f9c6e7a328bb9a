"""One way in which a Triton kernel of this package is launched: what a compiler needs to build it without a GPU.

A module with kernels has a function `aot_cases()` that yields these; `make prove` finds it by that name and holds every
case to the shared memory that the smallest of the devices has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Shared memory that a program may take on every device from sm_80 on: consumer cards have 99 KiB.
SHARED_BYTES = 99 * 1024


@dataclass(frozen=True)
class KernelCase:
    """A launch.

    Attributes:
        name: kernel and what is particular to the case.
        kernel: the `triton.jit` function.
        signature: argument -> Triton's type (`*bf16`, `i32`, `fp32`, `constexpr`), all arguments in order.
        constants: constexpr argument -> value.
        options: `num_warps` and `num_stages`.
        since: the least compute capability that has its instructions, 80 for 8.0.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    options: Mapping[str, int]
    since: int = 80
