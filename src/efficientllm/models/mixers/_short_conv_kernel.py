"""Triton kernels of the short convolution with its SiLU: one pass over the tokens each way.

    y_t = silu(z_t)    z_t = bias + Σ_j weight_j x_{t - taps + 1 + j}

The backward pass works the sums z out again: of the tokens of its block, and of the `taps - 1` after them, whose
gradients reach back into it. Gradients of weight and bias are summed a block at a time and then over blocks.
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

_ROWS, _CHANNELS, _WARPS = 32, 128, 4


@triton.jit
def _sum(x, weight, bias, begin, times, channels, tokens, num_channels, x_t,
         TAPS: tl.constexpr, HAS_BIAS: tl.constexpr) -> Any:  # fmt: skip
    """Return z at these times of a row, float32; 0 outside of it counts for tokens before the first."""
    inside = (channels < num_channels)[None, :]
    total = tl.zeros((times.shape[0], channels.shape[0]), tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + channels, mask=channels < num_channels, other=0.0).to(tl.float32)[None, :]
    for tap in tl.static_range(TAPS):
        at = times - (TAPS - 1) + tap
        there = ((at >= 0) & (at < tokens))[:, None] & inside
        value = tl.load(x + begin + at[:, None] * x_t + channels[None, :], mask=there, other=0.0).to(tl.float32)
        factor = tl.load(weight + channels * TAPS + tap, mask=channels < num_channels, other=0.0).to(tl.float32)
        total += value * factor[None, :]
    return total


@triton.jit
def forward(x, weight, bias, y, tokens, num_channels, x_b, x_t,
            TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr,
            CHANNELS: tl.constexpr) -> None:  # fmt: skip
    """Write silu(z) of a block of tokens and channels of a row."""
    row = tl.program_id(2).to(tl.int64)
    times = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    z = _sum(x, weight, bias, row * x_b, times, channels, tokens, num_channels, x_t, TAPS, HAS_BIAS)
    inside = (times < tokens)[:, None] & (channels < num_channels)[None, :]
    place = row * tokens * num_channels + times[:, None] * num_channels + channels[None, :]
    tl.store(y + place, (z / (1.0 + tl.exp(-z))).to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward(x, weight, bias, pull, grad, parts, tokens, num_channels, x_b, x_t, pull_b, pull_t,
             TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr,
             CHANNELS: tl.constexpr) -> None:  # fmt: skip
    """Write the gradient of a block of x, and the block's part of those of weight and bias: [taps + 1, channels]."""
    row = tl.program_id(2).to(tl.int64)
    times = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = channels < num_channels
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    block = (row * tl.num_programs(1) + tl.program_id(1)) * (TAPS + 1) * num_channels
    for later in tl.static_range(TAPS):
        at = times + later
        z = _sum(x, weight, bias, row * x_b, at, channels, tokens, num_channels, x_t, TAPS, HAS_BIAS)
        place = row * pull_b + at[:, None] * pull_t + channels[None, :]
        from_above = tl.load(pull + place, mask=(at < tokens)[:, None] & known[None, :], other=0.0).to(tl.float32)
        share = 1.0 / (1.0 + tl.exp(-z))
        of_z = from_above * share * (1.0 + z * (1.0 - share))
        factor = tl.load(weight + channels * TAPS + (TAPS - 1 - later), mask=known, other=0.0).to(tl.float32)
        total += of_z * factor[None, :]
        if later == 0:
            tl.store(parts + block + TAPS * num_channels + channels, tl.sum(of_z, 0), mask=known)
            for tap in tl.static_range(TAPS):
                before = times - (TAPS - 1) + tap
                there = ((before >= 0) & (before < tokens))[:, None] & known[None, :]
                value = tl.load(x + row * x_b + before[:, None] * x_t + channels[None, :], mask=there, other=0.0)
                tl.store(
                    parts + block + tap * num_channels + channels, tl.sum(of_z * value.to(tl.float32), 0), mask=known
                )
    inside = (times < tokens)[:, None] & known[None, :]
    place = row * tokens * num_channels + times[:, None] * num_channels + channels[None, :]
    tl.store(grad + place, total.to(grad.dtype.element_ty), mask=inside)


@torch.library.custom_op("efficientllm::short_conv", mutates_args=())
def short_conv(x_BTX: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return silu of the convolution, BTX; differentiable.

    Args:
        x_BTX: the tokens; zeros stand before the first.
        weight: [channels, taps].
        bias: [channels], or None.
    """
    x_BTX, (batch, tokens, channels) = _dense_rows(x_BTX), x_BTX.shape
    y_BTX = x_BTX.new_empty(batch, tokens, channels)
    forward[_grid(x_BTX)](
        x_BTX, weight.contiguous(), weight if bias is None else bias, y_BTX, tokens, channels, *x_BTX.stride()[:2],
        TAPS=weight.shape[1], HAS_BIAS=bias is not None, ROWS=_ROWS, CHANNELS=_CHANNELS, num_warps=_WARPS,
    )  # fmt: skip
    return y_BTX


@torch.library.custom_op("efficientllm::short_conv_backward", mutates_args=())
def short_conv_backward(x_BTX: Tensor, weight: Tensor, bias: Tensor | None, pull_BTX: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of x, BTX, and those of weight and bias side by side, float32 [taps + 1, channels]."""
    x_BTX, pull_BTX, (batch, tokens, channels) = _dense_rows(x_BTX), _dense_rows(pull_BTX), x_BTX.shape
    grid, taps = _grid(x_BTX), weight.shape[1]
    grad_BTX = x_BTX.new_empty(batch, tokens, channels)
    parts = x_BTX.new_empty(batch * grid[1], taps + 1, channels, dtype=torch.float32)
    backward[grid](
        x_BTX, weight.contiguous(), weight if bias is None else bias, pull_BTX, grad_BTX, parts, tokens, channels,
        *x_BTX.stride()[:2], *pull_BTX.stride()[:2],
        TAPS=taps, HAS_BIAS=bias is not None, ROWS=_ROWS, CHANNELS=_CHANNELS, num_warps=_WARPS,
    )  # fmt: skip
    return grad_BTX, parts.sum(0)


@short_conv.register_fake
def _(x_BTX: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x_BTX.new_empty(x_BTX.shape)


@short_conv_backward.register_fake
def _(x_BTX: Tensor, weight: Tensor, bias: Tensor | None, pull_BTX: Tensor) -> tuple[Tensor, Tensor]:
    sums = x_BTX.new_empty(weight.shape[1] + 1, x_BTX.shape[2], dtype=torch.float32)
    return x_BTX.new_empty(x_BTX.shape), sums


def _dense_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _grid(x_BTX: Tensor) -> tuple[int, int, int]:
    batch, tokens, channels = x_BTX.shape
    return triton.cdiv(channels, _CHANNELS), triton.cdiv(tokens, _ROWS), batch


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, pull_BTX: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    x_BTX, weight, bias = ctx.saved_tensors
    grad_BTX, sums = short_conv_backward(x_BTX, weight, bias, pull_BTX)
    return grad_BTX, sums[:-1].t().to(weight.dtype), None if bias is None else sums[-1].to(bias.dtype)


short_conv.register_autograd(_differentiate, setup_context=_keep)


def aot_cases() -> Iterator[KernelCase]:
    """Yield the ways in which the kernels are launched."""
    names = {
        "forward": ("x", "weight", "bias", "y", "tokens", "num_channels", "x_b", "x_t"),
        "backward": ("x", "weight", "bias", "pull", "grad", "parts", "tokens", "num_channels", "x_b", "x_t", "pull_b",
                     "pull_t"),
    }  # fmt: skip
    float32 = {"weight", "bias", "parts"}
    for dtype in ("bf16", "fp32"):
        for kernel in (forward, backward):
            signature = {
                name: "i32" if "_" in name or name == "tokens" else "*fp32" if name in float32 else f"*{dtype}"
                for name in names[kernel.__name__]
            }
            constants = {"TAPS": 4, "HAS_BIAS": True, "ROWS": _ROWS, "CHANNELS": _CHANNELS}
            yield KernelCase(
                name=f"short convolution {kernel.__name__} {dtype}",
                kernel=kernel,
                signature={**signature, **dict.fromkeys(constants, "constexpr")},
                constants=constants,
                options={"num_warps": _WARPS, "num_stages": 3},
            )
