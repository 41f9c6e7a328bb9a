"""How fast the tiny model decodes and trains on a processor, mixer by mixer, beside the memory's read rate.

The same weights with gqa are also decoded by the engines over transformers, in turn with ours.

    python benchmarks/decode_cpu.py [context] [threads] [mixer …]

Mixers take turns, round by round, so that what else the machine does hits all of them; each figure is the median and
the fastest over all steps. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from efficientllm import catalog, registry
from efficientllm.engines._contract import Engine, EngineEntry
from efficientllm.models.build import build_decoder
from efficientllm.models.costs import train_work
from efficientllm.models.mixers._probe import position_with
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import InferenceSettings

VOCAB_TOKENS, ROUNDS, STEPS, TRAIN_STEPS = 2048, 8, 25, 2
PEERS = ("transformers", "transformers_static")


def timed(call: Callable[[], object], times: int) -> list[float]:
    """Return the seconds of each call."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def decoding(mixer: str, context: int, threads: int, name: str = "native") -> tuple[Engine, Callable[[], None]]:
    """Return an engine with the context in its cache, and one decode step on it."""
    slots = {"mixer": Choice(name=mixer), "position": Choice(name=position_with(mixer))}
    settings = InferenceSettings(**slots, engine=Choice(name=name))
    entry: EngineEntry = registry.load("engine", name)
    engine = entry.open(settings, folder=None, vocab_tokens=VOCAB_TOKENS, seed=0, device="cpu", threads=threads)
    engine.begin(1, context + 64)
    engine.prefill(torch.arange(context)[None] % VOCAB_TOKENS)
    engine.mark()
    token = torch.zeros(1, dtype=torch.int64)

    def step() -> None:
        engine.rewind(context)
        engine.decode(token)

    return engine, step


def training(mixer: str) -> tuple[float, Callable[[], None]]:
    """Return the FLOPs of a training step at 8 × 256 tokens, and the step."""
    settings = ModelSettings(mixer=Choice(name=mixer), position=Choice(name=position_with(mixer)))
    decoder = build_decoder(settings, vocab_tokens=VOCAB_TOKENS, seed=0, device="cpu")
    optimizer = torch.optim.AdamW(decoder.parameters(), fused=True)
    rows = torch.randint(VOCAB_TOKENS, (8, 257), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        decoder.loss(rows[:, :-1], rows[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return train_work(decoder, 8, 256).model_flops, step


def main() -> None:
    """Print the table and the JSON line."""
    context = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    torch.set_num_threads(threads)
    mixers = ["gqa", *(name for name in sys.argv[3:] or catalog.names("mixer") if name != "gqa")]
    engines = {mixer: decoding(mixer, context, threads) for mixer in mixers}
    peers = {name: decoding("gqa", context, threads, name) for name in PEERS}
    trainers = {mixer: training(mixer) for mixer in mixers}
    block = torch.ones(64 * 1024**2)
    steps: dict[str, list[float]] = {mixer: [] for mixer in mixers}
    train: dict[str, list[float]] = {mixer: [] for mixer in mixers}
    elsewhere: dict[str, list[float]] = {name: [] for name in PEERS}
    reads: list[float] = []
    for _ in range(ROUNDS):
        reads += timed(block.sum, 5)
        for mixer in mixers:
            timed(engines[mixer][1], 3)
            steps[mixer] += timed(engines[mixer][1], STEPS)
            train[mixer] += timed(trainers[mixer][1], TRAIN_STEPS)
        for name in PEERS:
            timed(peers[name][1], 3)
            elsewhere[name] += timed(peers[name][1], STEPS)
    found: dict[str, dict[str, float]] = {"memory": {"read_bytes_per_s": block.nbytes / min(reads)}}
    print(f"read {block.nbytes / min(reads) / 1e9:.1f} GB/s   context {context}, {threads} threads, float32")
    for mixer in mixers:
        moved = engines[mixer][0].decode_work(1, context).moved_bytes
        best, middle, step = min(steps[mixer]), median(steps[mixer]), min(train[mixer])
        found[mixer] = {
            "decode_best_s": best,
            "decode_median_s": middle,
            "decode_bytes": moved,
            "decode_bytes_per_s": moved / best,
            "train_tokens_per_s": 2048 / step,
            "train_flop_per_s": trainers[mixer][0] / step,
        }
        print(
            f"{mixer}: {best * 1e3:.2f} ms/token (median {middle * 1e3:.2f}), {moved / 1e6:.1f} MB, "
            f"{moved / best / 1e9:.1f} GB/s; training {2048 / step:.0f} tokens/s, "
            f"{trainers[mixer][0] / step / 1e9:.0f} GFLOP/s"
        )
    for name in PEERS:
        best, middle = min(elsewhere[name]), median(elsewhere[name])
        ratio = middle / found["gqa"]["decode_median_s"]
        found[name] = {"decode_best_s": best, "decode_median_s": middle, "over_native_ratio": ratio}
        print(f"gqa by {name}: {best * 1e3:.2f} ms/token (median {middle * 1e3:.2f}), {ratio:.2f} of native's")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
