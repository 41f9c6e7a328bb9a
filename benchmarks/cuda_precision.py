"""The number formats of inference on a CUDA device: a product's time beside bfloat16's, and its error.

    python benchmarks/cuda_precision.py          the four matrices of a 7b layer; under two minutes

For every format that packs, matrix and number of rows: the time of the served product, replayed in a captured graph as
in decoding, beside that of the dense product in bfloat16 on the same inputs, and the relative error against float64
arithmetic on the dequantised matrix. `both ways` gives the two ways of a format with a kernel for few rows, whichever
the number of rows selects: where they cross is what `few_rows` should be. Exits with 1 if an error is above its bound,
or the matrix that is read back is not the one that was packed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import chain, cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm import catalog, registry
from efficientllm.devices.choose import open_device
from efficientllm.errors import Unsupported
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.precision._served import ServedLinear

#: out_features × in_features of q, k and v together, the attention's result, gate and up together, down.
MATRICES = {"qkv": (4608, 3584), "out": (3584, 3584), "gate_up": (37_888, 3584), "down": (3584, 18_944)}
ROWS, REPLAYS, CALLS = (1, 8, 16, 32, 64, 128, 512, 4096), 7, 10
#: Relative error that the products' type of activations explains.
BOUNDS = {"": 6e-3, "bfloat16": 6e-3, "float8_e4m3fn": 6e-2}


def main() -> None:
    """Check and time every packed format of the folder."""
    device, ok = open_device("cuda"), True
    print(f"{device.info().name}, torch {torch.__version__}")
    for name in catalog.names("precision"):
        entry: PrecisionEntry = registry.load("precision", name)
        if entry.pack is None or entry.needs_inputs:
            continue
        try:
            entry.supports(torch.device("cuda"))
        except Unsupported as refusal:
            print(f"{name}: {refusal}")
            continue
        for matrix, shape in MATRICES.items():
            ok &= report(name, entry, matrix, shape)
    sys.exit(int(not ok))


@torch.inference_mode()
def report(name: str, entry: PrecisionEntry, matrix: str, shape: tuple[int, int]) -> bool:
    """Print a line for each number of rows; return whether every error is within its bound."""
    assert entry.pack is not None
    weight = torch.randn(shape, device="cuda").mul_(0.02).bfloat16()
    packed = entry.pack(weight, None)
    before = packed.weight
    layer = packed.served()
    same = torch.equal(layer.weight, before)
    del packed
    print(f"{name} {matrix} {shape[0]} × {shape[1]}: {8 * layer.packed_bytes() / weight.numel():.3f} bits, same {same}")
    exact, within = layer.float().weight.double(), same
    layer.bfloat16()
    for rows in ROWS:
        x = torch.randn(rows, shape[1], device="cuda").bfloat16()
        expected = F.linear(x.double(), exact)
        apart = ((layer(x).double() - expected).norm() / expected.norm()).item()
        within &= apart <= BOUNDS[entry.computes_in]  # NaN is not
        dense_s, served_s = seconds(lambda x: F.linear(x, weight), x), seconds(layer, x)
        print(
            f"  {rows:>5} rows: bf16 {dense_s * 1e6:8.1f} µs, {name} {served_s * 1e6:8.1f} µs, "
            f"{dense_s / served_s:5.2f} ×, error {apart:.1e}{both_ways(layer, x)}",
            flush=True,
        )
    return within


def both_ways(layer: PackedLinear, x: Tensor) -> str:
    """Return the time of a layer's kernel for few rows and that of making the matrix, where it has both."""
    if not isinstance(layer, ServedLinear) or not layer.few_rows or len(x) > 512:
        return ""
    few_s, many_s = seconds(layer.few, x), seconds(layer.many, x)
    return f"   both ways: few {few_s * 1e6:.1f} µs, many {many_s * 1e6:.1f} µs"


def seconds(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return the median time of a call inside a captured graph.

    Between two calls a stretch of memory larger than the last-level cache is read, or a small matrix would stay there.
    That reading is timed apart and taken off. (Written, it would go on being written back while the call runs.)
    """
    other = torch.zeros(2**26, dtype=torch.int32, device="cuda")
    with_call = replay_seconds([lambda: call(x), other.max])
    return (with_call - replay_seconds([other.max])) / CALLS


def replay_seconds(calls: list[Callable[[], Tensor]]) -> float:
    """Return the median time of a graph of these calls, in turn, `CALLS` times over."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in chain(calls, calls):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in islice(cycle(calls), CALLS * len(calls)):
            call()
    times = []
    for _ in range(REPLAYS):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended) / 1e3)
    return sorted(times)[REPLAYS // 2]


if __name__ == "__main__":
    main()
