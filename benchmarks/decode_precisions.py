"""How fast one model decodes on a processor in each number format, beside each other in one run.

    python benchmarks/decode_precisions.py [context] [threads] [layers]

Random weights in layers of the 0.5b size, eight of its 24 by default (0.12b). Formats take turns, round
by round, so that what else the machine does hits all of them; a figure is the median of all steps. The bytes are those
that a step must read. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from efficientllm.engines.native import ENTRY, NativeEngine
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

FORMATS, ROUNDS, STEPS, VOCAB_TOKENS = ("fp32", "bf16", "int8", "int4"), 5, 8, 4096


def decoding(name: str, layers: int, context: int, threads: int) -> tuple[NativeEngine, Callable[[], None], float]:
    """Return an engine with the context in its cache, one decode step on it, and the seconds of the prefill."""
    choice, dtype = Choice(name=name), "float32" if name == "fp32" else "bfloat16"
    settings = InferenceSettings(size="0.5b", shape={"num_layers": layers}, precision=choice, dtype=dtype)
    engine = ENTRY.open(settings, folder=None, vocab_tokens=VOCAB_TOKENS, seed=0, device="cpu", threads=threads)
    assert isinstance(engine, NativeEngine)
    prompt = torch.arange(context)[None] % VOCAB_TOKENS
    for _ in range(2):  # the first one sets up what the libraries keep
        engine.begin(1, context + 8)
        start = time.perf_counter()
        engine.prefill(prompt)
        prefill_s = time.perf_counter() - start
    engine.mark()
    token = torch.zeros(1, dtype=torch.int64)

    def step() -> None:
        engine.rewind(context)
        engine.decode(token)

    return engine, step, prefill_s


def main() -> None:
    """Print a line a format, and the JSON line."""
    context = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    layers = int(sys.argv[3]) if len(sys.argv) > 3 else 8
    opened = {name: decoding(name, layers, context, threads) for name in FORMATS}
    steps: dict[str, list[float]] = {name: [] for name in FORMATS}
    for _ in range(ROUNDS):
        for name, (_, step, _) in opened.items():
            step()
            for _ in range(STEPS):
                start = time.perf_counter()
                step()
                steps[name].append(time.perf_counter() - start)
    found, slowest = {}, median(steps["fp32"])
    machine = f"{threads} threads, {torch.backends.cpu.get_cpu_capability()}"
    print(f"{layers} layers of 0.5b, {context} tokens of context, one row, {machine}")
    for name, (engine, _, prefill_s) in opened.items():
        decode_s, moved = median(steps[name]), engine.decode_work(1, context).moved_bytes
        found[name] = {"decode_s": decode_s, "prefill_s": prefill_s, "weight_bytes": engine.weight_bytes}
        print(
            f"{name:<5} {decode_s * 1e3:7.2f} ms/token, {slowest / decode_s:.2f} × fp32's rate; prefill "
            f"{prefill_s * 1e3:6.0f} ms; weights {engine.weight_bytes / 1e6:.0f} MB, {moved / decode_s / 1e9:.1f} GB/s"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
