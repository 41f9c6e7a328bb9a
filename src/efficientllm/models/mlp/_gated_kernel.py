"""Triton kernels of the gated layer: silu(gate) * up, and its gradients together with the value itself.

The backward pass needs the value once more, as a factor of the next weight's gradient. One kernel gives all three from
one reading: gate, up and the gradient that comes in are read once, the gradients of both and the value written once.
"""

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

_BLOCK, _WARPS = 1024, 4


@triton.jit
def forward(gate_up, value, inner, BLOCK: tl.constexpr) -> None:
    """Write silu(gate) * up; a program takes a block of one row, whose gates come before its ups."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < inner
    gate = tl.load(gate_up + row * 2 * inner + places, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inner + inner + places, mask=inside).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(value + row * inner + places, result.to(value.dtype.element_ty), mask=inside)


@triton.jit
def backward(gate_up, pull, grad, value, inner, BLOCK: tl.constexpr) -> None:
    """Write the gradients of gate and up, and silu(gate) * up itself."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < inner
    gate = tl.load(gate_up + row * 2 * inner + places, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inner + inner + places, mask=inside).to(tl.float32)
    from_above = tl.load(pull + row * inner + places, mask=inside).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(-gate))
    silu = gate * share
    grad_gate = from_above * up * (share + silu * (1.0 - share))
    kind = grad.dtype.element_ty
    tl.store(grad + row * 2 * inner + places, grad_gate.to(kind), mask=inside)
    tl.store(grad + row * 2 * inner + inner + places, (from_above * silu).to(kind), mask=inside)
    tl.store(value + row * inner + places, (silu * up).to(kind), mask=inside)


@torch.library.custom_op("efficientllm::silu_gate", mutates_args=())
def silu_gate(gate_up_MG: Tensor) -> Tensor:
    """Return silu(gate) * up, MF; a row holds F gates and then F ups."""
    inner = gate_up_MG.shape[1] // 2
    value_MF = gate_up_MG.new_empty(len(gate_up_MG), inner)
    if len(gate_up_MG):
        forward[_grid(value_MF)](gate_up_MG.contiguous(), value_MF, inner, BLOCK=_BLOCK, num_warps=_WARPS)
    return value_MF


@torch.library.custom_op("efficientllm::silu_gate_backward", mutates_args=())
def silu_gate_backward(gate_up_MG: Tensor, pull_MF: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of gate and up, MG, and the value MF once more."""
    grad_MG, value_MF = torch.empty_like(gate_up_MG), torch.empty_like(pull_MF)
    if len(gate_up_MG):
        backward[_grid(value_MF)](
            gate_up_MG.contiguous(), pull_MF.contiguous(), grad_MG, value_MF, pull_MF.shape[1],
            BLOCK=_BLOCK, num_warps=_WARPS,
        )  # fmt: skip
    return grad_MG, value_MF


@silu_gate.register_fake
def _(gate_up_MG: Tensor) -> Tensor:
    return gate_up_MG.new_empty(gate_up_MG.shape[0], gate_up_MG.shape[1] // 2)


@silu_gate_backward.register_fake
def _(gate_up_MG: Tensor, pull_MF: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gate_up_MG), torch.empty_like(pull_MF)


def _grid(value_MF: Tensor) -> tuple[int, int]:
    return len(value_MF), triton.cdiv(value_MF.shape[1], _BLOCK)


def aot_cases() -> Iterator[KernelCase]:
    """Yield the ways in which the kernels are launched."""
    options = {"num_warps": _WARPS, "num_stages": 3}
    for dtype in ("bf16", "fp16", "fp32"):
        names = {"forward": ("gate_up", "value"), "backward": ("gate_up", "pull", "grad", "value")}
        for kernel in (forward, backward):
            pointers = dict.fromkeys(names[kernel.__name__], f"*{dtype}")
            signature = {**pointers, "inner": "i32", "BLOCK": "constexpr"}
            yield KernelCase(f"{kernel.__name__} {dtype}", kernel, signature, {"BLOCK": _BLOCK}, options)
