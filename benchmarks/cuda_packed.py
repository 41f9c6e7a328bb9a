"""The 4-bit formats on a CUDA device: the kernel against the plain form, its speed, and that of a layer's products.

    python benchmarks/cuda_packed.py          a matrix of the 7b size, 3584 × 18944; under a minute

Prints a line a format and type: relative difference of the kernel from the plain form in float32, bytes a second that
it reads and writes beside those of a copy, and the time of a layer's forward and backward pass beside that of a dense
layer of the same matrix, eager and compiled. Exits with 1 if a difference is above what the type explains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from efficientllm import catalog, registry
from efficientllm.devices.choose import open_device
from efficientllm.precision._blocks import Blocks, plain_matrix
from efficientllm.precision._layer import BlockLinear
from efficientllm.precision.pack import unpack
from efficientllm.units import bytes_text, seconds_text

ROWS, COLUMNS, TOKENS, REPEATS = 18_944, 3584, 4096, 30
#: ‖kernel − plain‖ / ‖plain‖ that rounding to the type explains.
BOUNDS = {torch.bfloat16: 3e-3, torch.float16: 4e-4, torch.float32: 1e-6}


def main() -> None:
    """Check and time every format of the folder in every type."""
    device, ok = open_device("cuda"), True
    print(f"{device.info().name}: {ROWS} × {COLUMNS}, {TOKENS} tokens")
    for dtype, bound in BOUNDS.items():
        weight = torch.randn(ROWS, COLUMNS, device="cuda").mul_(0.02).to(dtype)
        target = torch.empty_like(weight)
        copy_rate = 2 * weight.nbytes / seconds(lambda: target.copy_(weight))  # noqa: B023 # called at once
        for name in catalog.names("precision"):
            entry = registry.load("precision", name)
            if entry.pack is None or entry.needs_inputs:
                continue
            layer = entry.pack(weight, None)
            if isinstance(layer, BlockLinear):  # a format of another layout has a kernel and a benchmark of its own
                ok &= report(name, layer, dtype, bound, copy_rate)
    sys.exit(int(not ok))


def report(name: str, layer: BlockLinear, dtype: torch.dtype, bound: float, copy_rate: float) -> bool:
    """Print a format's line; return whether the kernel agrees."""
    expected = plain_matrix(Blocks(*layer.fields()), *layer.form(), torch.float64)
    apart = ((layer.weight.double() - expected).norm() / expected.norm()).item()
    del expected
    moved = layer.packed_bytes() + layer.weight.nbytes
    rate = moved / seconds(lambda: layer.weight)
    dense = unpack(layer)
    times = [seconds(step_of(form(one))) for form in (lambda module: module, torch.compile) for one in (layer, dense)]
    eager, compiled = (f"{seconds_text(a)} / {seconds_text(b)}" for a, b in zip(times[::2], times[1::2], strict=True))
    print(
        f"{name:<8} {str(dtype)[6:]:<9} apart {apart:.1e} (bound {bound:.0e})  {bytes_text(rate)}/s, "
        f"{rate / copy_rate:.0%} of a copy's  packed / dense step: eager {eager}, compiled {compiled}",
        flush=True,
    )
    return apart <= bound  # NaN is not


def step_of(layer: nn.Module) -> Callable[[], Tensor]:
    """Return a forward and a backward pass of a layer, with respect to what goes in."""
    dtype: torch.dtype = layer.weight.dtype  # type: ignore[assignment]
    x = torch.randn(TOKENS, COLUMNS, device="cuda", dtype=dtype, requires_grad=True)
    pull = torch.randn(TOKENS, ROWS, device="cuda", dtype=dtype)
    return lambda: torch.autograd.grad(layer(x), x, pull)[0]


def seconds(call: Callable[[], Tensor]) -> float:
    """Return the median time of a call on the device, once it has been compiled."""
    for _ in range(3):
        call()
    torch.cuda._sleep(50_000_000)  # the host is ahead from here on, and its own time is not counted
    begun, ended = ([torch.cuda.Event(enable_timing=True) for _ in range(REPEATS)] for _ in range(2))
    for number in range(REPEATS):
        begun[number].record()
        call()
        ended[number].record()
    ended[-1].synchronize()
    return sorted(a.elapsed_time(b) / 1000 for a, b in zip(begun, ended, strict=True))[REPEATS // 2]


if __name__ == "__main__":
    main()
