"""One model on two GPUs against one: links, speed, memory, what is spent on communication, and the same losses.

    torchrun --standalone --nproc-per-node 2 benchmarks/two_gpus.py PART FILE     runs a part, writes its figures
    python benchmarks/two_gpus.py table FOLDER                                     prints all of them

Parts: `links`; `train SIZE ROWS` (random tokens, rows of 2048 a GPU, compiled, bf16 over fp32 weights); `losses`.
The same program runs on one process. `benchmarks/two_gpus.sh` runs all; docs/performance.md has what it gave.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from efficientllm.devices._contract import Device
from efficientllm.devices.calibrate import matmul_bursts
from efficientllm.devices.choose import open_device
from efficientllm.devices.links import measure_collectives
from efficientllm.devices.matmul import best_work
from efficientllm.models.build import build_decoder
from efficientllm.models.costs import train_work
from efficientllm.records.choice import Choice
from efficientllm.records.settings import CalibrateSettings, PretrainSettings
from efficientllm.training import communication
from efficientllm.training.loop import TrainLoop
from efficientllm.training.ranks import Ranks, joined
from efficientllm.training.tokens import StepTokens
from random_text import RandomText

VOCAB_TOKENS, ROW_TOKENS = 151_936, 2048
WARM_UP, MEASURED = 5, 12
SMALL = {"num_layers": 4, "width": 256, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "mlp_width": 704}


def links(device: Device, ranks: Ranks) -> dict[str, float]:
    """Return the bus bandwidth of collectives, 64 MiB to 1 GiB."""
    return measure_collectives(device, [1 << 26, 1 << 28, 1 << 30])


def train(device: Device, ranks: Ranks, size: str, rows: str) -> dict[str, float]:
    """Return speed, memory and communication of training, of all ranks together."""
    settings = PretrainSettings(
        size=size,
        dtype="bfloat16",
        compile=True,
        ranks=ranks.world,
        micro_batch=int(rows),
        sequence_tokens=ROW_TOKENS,
        tokens=10**9,
        learning_rate=1e-4,
    )
    where = device.torch_device()
    decoder = build_decoder(settings, vocab_tokens=VOCAB_TOKENS, seed=0, device=where)
    work = train_work(decoder, settings.rows_per_step, ROW_TOKENS)
    text = RandomText(VOCAB_TOKENS, 4096 * ROW_TOKENS)
    loop = TrainLoop(decoder, settings, StepTokens(text, settings, device.torch_device(), 0, ranks), device, ranks)  # type: ignore[arg-type] # has what of a TokenFile is used
    device.empty_cache()
    warm_up = [loop.step() for _ in range(WARM_UP)]
    device.synchronize()
    device.reset_peak_memory()
    steps_s = []
    for _ in range(MEASURED):
        begin_s = time.perf_counter()
        loop.step()
        device.synchronize()
        steps_s.append(time.perf_counter() - begin_s)
    step_s = statistics.median(steps_s)
    peaks = device.allocator_figures()
    talk = {} if ranks.alone else communication.measure(loop.rehearse, ranks, device)[0]
    return {
        "ranks": ranks.world,
        "first_loss": warm_up[0],
        "step_s": step_s,
        "tokens_per_s": work.tokens / step_s,
        "model_flop_per_s": work.model_flops / step_s,
        "matmul_peak_flop_per_s": ranks.world * matmul_peak(device),
        **peaks,
        **talk,
    }


def matmul_peak(device: Device) -> float:
    """Return one device's best bf16 rate, as calibration measures it."""
    settings = CalibrateSettings(dtypes=("bfloat16",), burst_s=0.1, bursts=5)
    bursts = matmul_bursts(device, best_work(device, "bfloat16", settings.burst_s), settings)
    return max(rate for _, rate in bursts)


def losses(device: Device, ranks: Ranks) -> dict[str, list[float]]:
    """Return the losses of a small model, dense and with experts, on 8 rows a step however many ranks take them."""
    found = {}
    for name in ("dense", "moe"):
        options = {"balance": "bias", "aux_loss": 0.01} if name == "moe" else {}
        settings = PretrainSettings(
            shape=SMALL,
            mlp=Choice(name=name, options=options),
            dtype="bfloat16",
            compile=True,
            ranks=ranks.world,
            micro_batch=4,
            global_batch=8,
            sequence_tokens=256,
            tokens=30 * 8 * 256,
            learning_rate=1e-3,
        )
        decoder = build_decoder(settings, vocab_tokens=512, seed=0, device=device.torch_device())
        text = RandomText(512, 64 * 256 + 1)
        loop = TrainLoop(decoder, settings, StepTokens(text, settings, device.torch_device(), 0, ranks), device, ranks)  # type: ignore[arg-type]
        found[name] = [loop.step() for _ in range(loop.num_steps)]
    return found


PARTS = {"links": links, "train": train, "losses": losses}


def main(part: str, file: Path, *more: str) -> None:
    """Run a part on this rank; rank 0 writes the figures."""
    ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = open_device(kind, os.environ.get("LOCAL_RANK", "0") if kind == "cuda" else "")
    with joined(ranks, device):
        figures = PARTS[part](device, ranks, *more)  # type: ignore[operator]
    if ranks.rank == 0:
        file.write_text(json.dumps({"device": device.info().name, **figures}, indent=1) + "\n")


def table(folder: Path) -> None:
    """Print what all parts gave."""
    for file in sorted(folder.glob("train-*.json")):
        one = json.loads(file.read_text())
        mfu = one["model_flop_per_s"] / one["matmul_peak_flop_per_s"]
        peak = one.get("allocated_peak_bytes", 0.0) / 2**30
        share, exposed = (
            f"{one.get(f'communication_{what}s_per_step', 0.0) / one['step_s']:.1%}" for what in ("", "exposed_")
        )
        print(
            f"{file.stem:24} {one['tokens_per_s']:9.0f} tokens/s  step {one['step_s'] * 1e3:7.1f} ms  MFU {mfu:.1%}  "
            f"peak {peak:6.1f} GiB a GPU  communication {share}, exposed {exposed}"
        )
    rates = {n: read(folder, f"train-1.5b-{n}").get("tokens_per_s") for n in (1, 2)}
    if all(rates.values()):
        print(f"1.5b, two over one: {rates[2] / rates[1]:.3f} (aim: 1.85 where all-gather reaches 150 GB/s)")
    for name, rate in read(folder, "links").items():
        if name.endswith("bus_bytes_per_s"):
            print(f"{name:40} {rate / 1e9:7.1f} GB/s")
    one, two = read(folder, "losses-1"), read(folder, "losses-2")
    for name in ("dense", "moe") if one and two else ():
        gap = max(abs(a - b) / b for a, b in zip(two[name], one[name], strict=True))
        print(f"losses {name}: two ranks are at most {gap:.2e} off one ({one[name][0]:.4f} -> {one[name][-1]:.4f})")


def read(folder: Path, name: str) -> dict:
    """Return a part's figures, empty where it was not run."""
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


if __name__ == "__main__":
    if sys.argv[1] == "table":
        table(Path(sys.argv[2]))
    else:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
