"""A plain PyTorch loop, measured: two ways of writing the same step, side by side.

python examples/plain_loop.py              three runs give intervals and verdicts
efficientllm show examples                 the table again
"""

from __future__ import annotations

import sys

import torch
from torch import nn

import efficientllm

ROWS, WIDTH, LAYERS = 256, 512, 4


def main(steps: int) -> None:
    """Train a small network with two optimisers."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))).to(device)
    rows = torch.randn(ROWS, WIDTH, device=device)
    # forward and backward: three products a layer, two operations an element pair
    flops = 3 * 2 * ROWS * WIDTH**2 * LAYERS
    for name, fused in (("adamw", False), ("adamw fused", True)):
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        with efficientllm.measure(
            name, samples=ROWS, tokens=ROWS, flops=flops, study="examples", baseline=not fused, device=device
        ) as m:
            for _ in range(steps):
                loss = (model(rows) - rows).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                m.step(loss=loss.detach())
    print(m)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
