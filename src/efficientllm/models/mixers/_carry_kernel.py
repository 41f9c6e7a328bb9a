"""Triton kernel: carries matrix states from chunk to chunk, S ← decay ∘ S + mix S + write, forwards or backwards.

Columns of a state never meet (mix multiplies from the left), so a program has some columns of one row's head, keeps
them in its registers and goes through all chunks. The gradient is a recurrence of the same form that runs the other
way with mix transposed, so one kernel serves both passes.
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

#: Most rows of a state where they are mixed: two such matrices fit into the shared memory of all devices.
MAX_MIXED = 128


@triton.jit
def carry(
    decay, mix, write, start, before, last, num_chunks, num_heads, height, width,
    decay_b, decay_c, decay_n, decay_h, mix_b, mix_c, mix_n, mix_h, mix_w, write_b, write_c, write_n, write_h,
    HEIGHT: tl.constexpr, COLUMNS: tl.constexpr, MIXES: tl.constexpr, COARSE: tl.constexpr, STARTS: tl.constexpr,
    BACKWARDS: tl.constexpr,
) -> None:  # fmt: skip
    """Write the state before each chunk (after it, if backwards), and the last state."""
    row, head = tl.program_id(0) // num_heads, tl.program_id(0) % num_heads
    rows = tl.arange(0, HEIGHT)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    tile = rows[:, None] * width + columns[None, :]
    state = tl.zeros((HEIGHT, COLUMNS), tl.float32)
    whole = tl.program_id(0).to(tl.int64) * height * width
    if STARTS:
        state = tl.load(start + whole + tile, mask=inside, other=0.0)
    for step in range(num_chunks):
        chunk = num_chunks - 1 - step if BACKWARDS else step
        place = ((row * num_chunks + chunk).to(tl.int64) * num_heads + head) * height * width
        tl.store(before + place + tile, state, mask=inside)
        begin = write + row.to(tl.int64) * write_b + chunk.to(tl.int64) * write_c + head * write_n
        new = tl.load(begin + rows[:, None] * write_h + columns[None, :], mask=inside, other=0.0)
        kept = tl.load(decay + row * decay_b + chunk * decay_c + head * decay_n + rows * decay_h, mask=rows < height)
        if MIXES:
            begin = mix + row.to(tl.int64) * mix_b + chunk.to(tl.int64) * mix_c + head * mix_n
            places = rows[:, None] * mix_h + rows[None, :] * mix_w
            both = (rows < height)[:, None] & (rows < height)[None, :]
            factor = tl.load(begin + places, mask=both, other=0.0)
            if COARSE:
                new += tl.dot(factor.to(tl.bfloat16), state.to(tl.bfloat16))
            else:
                new += tl.dot(factor, state, input_precision="tf32x3")
        state = kept[:, None] * state + new
    tl.store(last + whole + tile, state, mask=inside)


@torch.library.custom_op("efficientllm::carry_states", mutates_args=())
def carry_states(
    decay: Tensor, mix: Tensor | None, write: Tensor, start: Tensor | None, backwards: bool, coarse: bool
) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, BCNHW, and the last, BNHW; all float32.

    Args:
        decay: broadcastable to BCNHW, alike for all columns.
        mix: BCNHH, or None for none.
        write: BCNHW.
        start: BNHW, or None for zeros.
        backwards: from the last chunk to the first, with mix transposed; the states are then those after each chunk.
        coarse: whether products with states are taken in bfloat16, summed in float32.
    """
    (batch, chunks, heads, height, width), write = write.shape, _dense_rows(write)
    decay = decay.expand(batch, chunks, heads, height, 1)
    before = write.new_empty(write.shape)
    last = write.new_empty(batch, heads, height, width)
    mixed = write if mix is None else mix.mT if backwards else mix
    launch = _launch(height, width, mix is not None, coarse)
    carry[(batch * heads, triton.cdiv(width, launch["COLUMNS"]))](
        decay, mixed, write, write if start is None else start.contiguous(), before, last, chunks, heads, height, width,
        *decay.stride()[:4], *mixed.stride(), *write.stride()[:4], **launch,
        MIXES=mix is not None, COARSE=coarse, STARTS=start is not None, BACKWARDS=backwards, num_stages=1,
    )  # fmt: skip
    return before, last


@carry_states.register_fake
def _(
    decay: Tensor, mix: Tensor | None, write: Tensor, start: Tensor | None, backwards: bool, coarse: bool
) -> tuple[Tensor, Tensor]:
    return write.new_empty(write.shape), write.new_empty(write[:, 0].shape)


def _dense_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _launch(height: int, width: int, mixes: bool, coarse: bool) -> dict[str, int]:
    """Return the sizes of a program.

    Each reads the whole mix, so there it takes many columns, as far as the registers go; without a mix, tall states
    take fewer.
    """
    tall, wide = (max(16, triton.next_power_of_2(x)) for x in (height, width))
    if not mixes:
        return {"HEIGHT": tall, "COLUMNS": max(4, min(32, 4096 // tall)), "num_warps": 4}
    many = coarse and tall > 64
    return {"HEIGHT": tall, "COLUMNS": min(64 if many else 32, wide), "num_warps": 8 if tall > 64 else 4}


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    decay, mix, _, start, backwards, ctx.coarse = inputs
    assert not backwards, "the backward recurrence is the gradient: it has none of its own here"
    ctx.starts = start is not None
    ctx.save_for_backward(decay, mix, output[0])


def _differentiate(ctx: Any, pull_before: Tensor, pull_last: Tensor) -> tuple[Tensor | None, ...]:
    decay, mix, before = ctx.saved_tensors
    after, first = carry_states(decay, mix, pull_before, pull_last, True, ctx.coarse)
    grad_decay, grad_mix = (after * before).sum_to_size(decay.shape), None
    if mix is not None:
        kind = torch.bfloat16 if ctx.coarse else torch.float32
        grad_mix = (after.to(kind) @ before.to(kind).mT).float()
    return grad_decay, grad_mix, after, first if ctx.starts else None, None, None


carry_states.register_autograd(_differentiate, setup_context=_keep)


def aot_cases() -> Iterator[KernelCase]:
    """Yield the ways in which the kernel is launched: gated delta rule and rwkv7 at full width, and mamba2."""
    pointers = dict.fromkeys(("decay", "mix", "write", "start", "before", "last"), "*fp32")
    counts = dict.fromkeys(("num_chunks", "num_heads", "height", "width"), "i32")
    axes = {"decay": "bcnh", "mix": "bcnhw", "write": "bcnh"}
    strides = {f"{name}_{axis}": "i32" for name in axes for axis in axes[name]}
    names = ("HEIGHT", "COLUMNS", "MIXES", "COARSE", "STARTS", "BACKWARDS")
    for height, width, mixes, coarse in ((128, 256, True, True), (128, 256, True, False), (64, 64, True, True),
                                         (128, 64, False, True)):  # fmt: skip
        launch = _launch(height, width, mixes, coarse)
        warps = launch.pop("num_warps")
        for backwards in (False, True):
            yield KernelCase(
                name=f"carry {height}x{width} mixes={mixes} coarse={coarse} backwards={backwards}",
                kernel=carry,
                signature={**pointers, **counts, **strides, **dict.fromkeys(names, "constexpr")},
                constants={**launch, "MIXES": mixes, "COARSE": coarse, "STARTS": True, "BACKWARDS": backwards},
                options={"num_warps": warps, "num_stages": 1},
            )
