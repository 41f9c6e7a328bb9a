"""What each position encoding costs on a CUDA device: a training step and a captured decode step, against rope.

    python benchmarks/cuda_positions.py [SIZE]

Prints a line an encoding: milliseconds and peak GiB of a step of 8 × 2048 tokens in bfloat16 (eager), microseconds of a
token in each of 16 rows after 8192, and which fused kernel torch took for the training attention.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from efficientllm import catalog
from efficientllm.devices._contract import Device
from efficientllm.devices.choose import open_device
from efficientllm.engines.native import ENTRY
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

VOCAB_TOKENS, ROWS, TOKENS = 32_000, 8, 2048
BATCH, CONTEXT = 16, 8192


def main() -> None:
    """Time every encoding of the folder with grouped-query attention."""
    size, device = sys.argv[1] if len(sys.argv) > 1 else "small", open_device("cuda")
    for name in catalog.names("position"):
        settings = InferenceSettings(size=size, position=Choice(name=name), dtype="bfloat16")
        step_s, peak_bytes, kernels = training(settings, device)
        decode_s = decoding(settings, device)
        print(
            f"{name:<9} train {1e3 * step_s:7.1f} ms {peak_bytes / 2**30:6.2f} GiB   decode {1e6 * decode_s:7.1f} us   "
            f"{', '.join(kernels)}",
            flush=True,
        )


def training(settings: InferenceSettings, device: Device) -> tuple[float, int, list[str]]:
    """Return seconds and peak bytes of forward and backward, and the names of the attention kernels."""
    decoder = build_decoder(settings, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda")
    tokens_BT = torch.randint(VOCAB_TOKENS, (ROWS, TOKENS + 1), device="cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = decoder.loss(tokens_BT[:, :-1], tokens_BT[:, 1:])
        loss.backward()
        decoder.zero_grad(set_to_none=True)

    step_s = median_s(step, 10, device)
    torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    found = {event.key for event in profiler.key_averages() if event.key.startswith("aten::_scaled_dot_product")}
    return step_s, torch.cuda.max_memory_allocated(), sorted(name.removeprefix("aten::_scaled_") for name in found)


def decoding(settings: InferenceSettings, device: Device) -> float:
    """Return the seconds of a captured decode step at the end of the context."""
    engine = ENTRY.open(settings, folder=None, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda", threads=0)
    engine.begin(BATCH, CONTEXT + 64)
    engine.prefill(torch.randint(VOCAB_TOKENS, (BATCH, CONTEXT)))
    tokens_B = torch.zeros(BATCH, dtype=torch.int64, device="cuda")

    def step() -> None:
        engine.decode(tokens_B)
        engine.rewind(CONTEXT)

    step_s = median_s(step, 50, device)
    engine.close()
    return step_s


def median_s(step: Callable[[], None], times: int, device: Device) -> float:
    """Return the median of so many synchronised calls, after three that do not count."""
    seconds = []
    for number in range(times + 3):
        device.synchronize()
        begin_s = time.perf_counter()
        step()
        device.synchronize()
        if number >= 3:
            seconds.append(time.perf_counter() - begin_s)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
