"""Every memory lever of training on a CUDA device: the losses of training without it, and what it saves and costs.

    python benchmarks/cuda_levers.py              0.5b, 4 rows of 2048 random tokens, 3 steps each; about a minute
    python benchmarks/cuda_levers.py --compile    … with compiled layers, where streamed weights are hardest; minutes

Prints a line a lever: time of a step, peak of the allocator over the steps after the first, largest difference of a
loss from training without levers. Exits with 1 if a difference is above its bound.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import torch

from efficientllm.devices._contract import Device
from efficientllm.devices.choose import open_device
from efficientllm.errors import Unsupported
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.loop import TrainLoop
from efficientllm.training.offload import building_device
from efficientllm.training.tokens import StepTokens
from efficientllm.units import bytes_text, seconds_text
from random_text import RandomText

SIZE, ROWS, TOKENS, STEPS, VOCAB_TOKENS = "0.5b", 4, 2048, 3, 151_936

#: lever -> (settings, nats that its losses may differ by). What computes the same in another order differs by rounding;
#: 8 bits and bfloat16 change the steps themselves.
LEVERS: dict[str, tuple[dict[str, Any], float]] = {
    "none": ({}, 0.0),
    "recompute selective": ({"activation_checkpointing": "selective"}, 2e-3),
    "recompute full": ({"activation_checkpointing": "full"}, 2e-3),
    "micro_batch 1": ({"micro_batch": 1}, 5e-3),
    "adamw8bit": ({"optimizer": Choice(name="adamw8bit")}, 3e-2),
    "bfloat16": ({"weights_dtype": "bfloat16"}, 5e-2),
    "offload optimizer": ({"offload": "optimizer"}, 2e-3),
    "offload optimizer, micro_batch 1": ({"offload": "optimizer", "micro_batch": 1}, 5e-3),
    "offload weights": ({"offload": "weights"}, 2e-3),
    "offload weights, recompute full": ({"offload": "weights", "activation_checkpointing": "full"}, 2e-3),
    "offload weights, bfloat16": ({"offload": "weights", "weights_dtype": "bfloat16"}, 5e-2),
}


def main() -> None:
    """Run all levers and compare."""
    device, ok = open_device("cuda"), True
    expected: list[float] = []
    print(f"{device.info().name}: {SIZE}, {ROWS} × {TOKENS} tokens, {STEPS} steps, bfloat16")
    print(f"{'lever':<34} {'step':>9} {'peak':>9} {'apart':>9}   losses")
    for lever, (more, bound) in LEVERS.items():
        try:
            losses, step_s, peak_bytes = run(device, more, compiles="--compile" in sys.argv)
        except Unsupported as refusal:
            print(f"{lever:<34} unsupported: {refusal}")
            continue
        expected = expected or losses
        apart = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        good = apart <= bound
        ok &= good
        said = " ".join(f"{loss:.4f}" for loss in losses)
        verdict = "" if good else f"   ABOVE {bound:g}"
        cost = f"{seconds_text(step_s):>9} {bytes_text(peak_bytes):>9}"
        print(f"{lever:<34} {cost} {apart:9.2g}   {said}{verdict}", flush=True)
    sys.exit(int(not ok))


def run(device: Device, more: dict[str, Any], *, compiles: bool) -> tuple[list[float], float, float]:
    """Return the losses, the shortest step after the first, and the allocator's peak over those steps."""
    settings = PretrainSettings(
        **{
            "size": SIZE,
            "sequence_tokens": TOKENS,
            "micro_batch": ROWS,
            "global_batch": ROWS,
            "tokens": STEPS * ROWS * TOKENS,
            "dtype": "bfloat16",
            "learning_rate": 3e-4,
            "compile": compiles,
            **more,
        }
    )
    decoder = build_decoder(
        settings,
        vocab_tokens=VOCAB_TOKENS,
        seed=0,
        device=building_device(settings, device.torch_device()),
        dtype=getattr(torch, settings.weights_dtype),
        draws_on=device.torch_device(),
    )
    loop = TrainLoop(
        decoder, settings, StepTokens(RandomText(VOCAB_TOKENS), settings, device.torch_device(), 0), device
    )  # type: ignore[arg-type]
    losses, times_s = [loop.step()], []
    device.reset_peak_memory()
    while loop.steps_left:
        device.synchronize()
        begin_s = time.perf_counter()
        losses.append(loop.step())
        device.synchronize()
        times_s.append(time.perf_counter() - begin_s)
    peak_bytes = device.allocator_figures()["allocated_peak_bytes"]
    del loop, decoder
    gc.collect()
    torch.compiler.reset()
    device.empty_cache()
    return losses, min(times_s), peak_bytes


if __name__ == "__main__":
    main()
