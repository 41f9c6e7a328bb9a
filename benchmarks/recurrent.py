"""How much faster recurrent mixers are in chunks than token by token: one layer of the tiny model, both passes.

    python benchmarks/recurrent.py [tokens] [threads]

`loop` is the plain reference, which takes one step a token in Python; `chunks` is what training and prefill run. Both
take turns; each figure is the fastest of all rounds, in ms. Gaps are relative: of the result, and of the input's
gradient. On a CUDA device the same is measured there, in bfloat16, where `path` says whose kernels ran.
"""

from __future__ import annotations

import sys
import time

import torch

from efficientllm import catalog, registry
from efficientllm.devices.choose import open_device
from efficientllm.models.initial import initialise
from efficientllm.models.mixers._contract import Mixer
from efficientllm.models.mixers._recurrent import RecurrentMixer
from efficientllm.models.position._contract import Position, positions_of
from efficientllm.models.shape import resolve_shape
from efficientllm.records.model_settings import ModelSettings

ROWS, ROUNDS = 4, 5


def main() -> None:
    """Print a line a mixer."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    device = open_device("auto")
    where = device.torch_device()
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    shape = resolve_shape(ModelSettings(), vocab_tokens=64)
    print(f"{ROWS} rows of {tokens} tokens, width {shape.width}, {dtype}, {where}")
    for name in catalog.names("mixer"):
        mixer: Mixer = registry.load("mixer", name).build(shape)
        if not isinstance(mixer, RecurrentMixer):
            continue
        initialise(mixer, 0, shape.num_layers)
        mixer.to(where, dtype)
        x_BTD = torch.randn(ROWS, tokens, shape.width, generator=torch.Generator().manual_seed(0)).to(where, dtype)
        positions = positions_of(Position(), tokens, where)
        times: dict[str, list[float]] = {"loop": [], "chunks": []}
        found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for _ in range(ROUNDS):
            for way, call in (("loop", mixer.reference), ("chunks", mixer)):
                given_BTD = x_BTD.clone().requires_grad_()
                device.synchronize()
                start = time.perf_counter()
                out_BTD = call(given_BTD, positions)
                out_BTD.square().sum().backward()
                device.synchronize()
                times[way].append(time.perf_counter() - start)
                assert given_BTD.grad is not None
                found[way] = (out_BTD.detach(), given_BTD.grad)
        gaps = [float((a - b).norm() / b.norm()) for a, b in zip(found["chunks"], found["loop"], strict=True)]
        loop_s, chunks_s = min(times["loop"]), min(times["chunks"])
        print(
            f"{name:<15} loop {1e3 * loop_s:8.1f}  chunks {1e3 * chunks_s:7.1f}  ratio {loop_s / chunks_s:5.1f}  "
            f"gaps {gaps[0]:.0e} {gaps[1]:.0e}  path: {mixer.implementation(dtype, gradients=True)}"
        )


if __name__ == "__main__":
    main()
