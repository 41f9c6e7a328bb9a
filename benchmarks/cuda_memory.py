"""Predicted memory beside torch's allocator, on a CUDA device: a few steps of each case on random tokens.

python benchmarks/cuda_memory.py [CASE ...] [--snapshot]

A case's error is that of the peak; for each moment of a step the predicted sum is told, so that a wrong one can be
found. `--snapshot` also lists what was alive at the real peak, by size and by the line that allocated it. Cases that
the device has no room for are left out with their prediction. About 90 s on an H200, most of it compilation.
"""

from __future__ import annotations

import argparse
import collections
import gc
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from efficientllm.devices.choose import open_device
from efficientllm.models.build import build_decoder
from efficientllm.models.mixers._probe import position_with
from efficientllm.planner.fits import available_bytes
from efficientllm.planner.predict import forward_pass, one_layer
from efficientllm.planner.train_memory import moments
from efficientllm.records.choice import Choice
from efficientllm.records.prediction import MemoryPrediction
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.loop import TrainLoop
from efficientllm.training.offload import building_device
from efficientllm.training.tokens import StepTokens
from random_text import RandomText

VOCAB_TOKENS, STEPS = 151_936, 3
GIB = 1024**3

CASES: dict[str, dict[str, Any]] = {
    "0.5b": {},
    "0.5b selective": {"activation_checkpointing": "selective"},
    "0.5b full": {"activation_checkpointing": "full"},
    "0.5b eager": {"compile": False},
    "0.5b eager full": {"compile": False, "activation_checkpointing": "full"},
    "0.5b bf16": {"weights_dtype": "bfloat16"},
    "0.5b accumulation": {"accumulation": 2, "micro_batch": 4},
    "0.5b adamw8bit": {"optimizer": Choice(name="adamw8bit")},
    "0.5b offload": {"offload": "optimizer"},
    "mla": {"mixer": "mla"},
    "mamba2": {"mixer": "mamba2"},
    "mamba2 eager": {"mixer": "mamba2", "compile": False},
    "gated_deltanet": {"mixer": "gated_deltanet"},
    "nsa": {"mixer": "nsa"},
    "moe": {"size": "0.5bx8", "micro_batch": 4},
    "moe bf16": {"size": "0.5bx8", "micro_batch": 4, "weights_dtype": "bfloat16"},
    "1.5b": {"size": "1.5b"},
}


def settings_of(case: dict[str, Any]) -> PretrainSettings:
    """Return the settings of a case."""
    more = {"size": "0.5b", "micro_batch": 8, "compile": True, **case}
    mixer = more.pop("mixer", None)
    if mixer:
        more |= {"mixer": Choice(name=mixer), "position": Choice(name=position_with(mixer))}
    rows = more["micro_batch"] * more.get("accumulation", 1)
    return PretrainSettings(dtype="bfloat16", sequence_tokens=2048, tokens=rows * 2048 * STEPS, **more)


def predicted(settings: PretrainSettings) -> tuple[MemoryPrediction, ...]:
    """Return what each moment of a step takes by prediction."""
    decoder, num_layers = one_layer(settings, VOCAB_TOKENS)
    return moments(decoder, num_layers, settings, forward_pass(decoder, settings, "cuda"))


def measure(settings: PretrainSettings, snapshot: bool) -> dict[str, float]:
    """Return what tensors held after loading, between steps and at the peak."""
    device = open_device("cuda")
    on = device.torch_device()
    before = torch.cuda.memory_allocated(on)
    decoder = build_decoder(
        settings,
        vocab_tokens=VOCAB_TOKENS,
        seed=0,
        device=building_device(settings, on),
        dtype=getattr(torch, settings.weights_dtype),
        draws_on=on,
    )
    loop = TrainLoop(
        decoder, settings, StepTokens(RandomText(VOCAB_TOKENS), settings, device.torch_device(), 0), device
    )  # type: ignore[arg-type]
    found = {"loaded": float(torch.cuda.memory_allocated(on) - before)}
    loop.step()
    found["between steps"] = float(torch.cuda.memory_allocated(on) - before)
    torch.cuda.reset_peak_memory_stats(on)
    if snapshot:
        torch.cuda.memory._record_memory_history(max_entries=400_000, stacks="python")
    loop.step()
    if snapshot:
        trace = torch.cuda.memory._snapshot(on)
        torch.cuda.memory._record_memory_history(enabled=None)
        print_largest(trace, found["between steps"])
    while loop.steps_left:
        loop.step()
    return {**found, "peak": float(torch.cuda.max_memory_allocated(on))}


def print_largest(trace: dict[str, Any], held_before: float) -> None:
    """Print what was alive at the peak of a recorded step beside what was there before it, largest sums first."""
    alive: dict[int, dict[str, Any]] = {}
    now = most = 0
    at_peak: list[dict[str, Any]] = []
    events = next((events for events in trace["device_traces"] if events), [])
    order: list[tuple[int, dict[str, Any]]] = list(enumerate(events))
    peak_at = -1
    for number, event in order:
        if event["action"] == "alloc":
            now += event["size"]
        elif event["action"] == "free_completed":
            now -= event["size"]
        if now > most:
            most, peak_at = now, number
    for _, event in order[: peak_at + 1]:
        if event["action"] == "alloc":
            alive[event["addr"]] = event
        elif event["action"] == "free_completed":
            alive.pop(event["addr"], None)
    at_peak = list(alive.values())
    groups: dict[tuple[int, str], int] = collections.Counter((event["size"], where(event)) for event in at_peak)
    print(f"  alive at the peak: {most / GIB:.2f} GiB beside {held_before / GIB:.2f} GiB of before")
    for (size, place), count in sorted(groups.items(), key=lambda item: -item[0][0] * item[1])[:30]:
        print(f"  {count * size / GIB:7.3f} GiB = {count:4d} × {size / 1e6:9.2f} MB  {place}")


def where(event: dict[str, Any]) -> str:
    """Return the innermost lines of an allocation that say something: ours, or generated code's."""
    lines = [
        f"{Path(frame['filename']).name}:{frame['line']} {frame['name']}"
        for frame in event.get("frames", [])
        if "efficientllm" in frame["filename"] or "torchinductor" in frame["filename"] or "optim" in frame["filename"]
    ]
    return " < ".join(lines[:2]) or "?"


def main() -> None:
    """Run the cases, print one table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--snapshot", action="store_true", help="list what was alive at the peak")
    given = parser.parse_args()
    capacity = torch.cuda.get_device_properties(0).total_memory
    table = [f"{'case':<20}{'predicted':>10}{'peak':>8}{'error':>8}  GiB; moment: sum (parts)"]
    for name in given.cases or CASES:
        settings = settings_of(CASES[name])
        steps = predicted(settings)
        best = max(steps, key=lambda moment: moment.peak_bytes)
        print(f"== {name}", flush=True)
        for step in steps:
            parts = " ".join(f"{part} {size / GIB:.2f}" for part, size in step.parts().items())
            print(f"  {step.moment:<12}{step.peak_bytes / GIB:7.2f}  {parts}")
        row = f"{name:<20}{best.peak_bytes / GIB:>10.2f}"
        told = " ".join(f"{part} {size / GIB:.2f}" for part, size in best.parts().items())
        if best.peak_bytes > available_bytes(capacity, "cuda"):
            table.append(f"{row}{'-':>8}{'-':>8}  {best.moment}: {told}  (does not fit, not tried)")
            continue
        try:
            found = measure(settings, given.snapshot)
        except Exception as error:  # noqa: BLE001 - one case must not take the others' table with it
            table.append(f"{row}{'-':>8}{'-':>8}  {type(error).__name__}: {str(error).splitlines()[0][:90]}")
        else:
            error_percent = 100 * (best.peak_bytes / found["peak"] - 1)
            table.append(
                f"{row}{found['peak'] / GIB:>8.2f}{error_percent:>+7.1f}%  {best.moment}: {told}; "
                f"loaded {found['loaded'] / GIB:.2f}, between steps {found['between steps'] / GIB:.2f}"
            )
        print(table[-1], flush=True)
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    print("\n" + "\n".join(table))


if __name__ == "__main__":
    main()
