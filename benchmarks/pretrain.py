"""Training speed of ours and of the peers on one CUDA device: each case in a process of its own, one after another.

    python benchmarks/pretrain.py [--out FOLDER] [--seconds 540] [--only NAME …] [--profile] [--list]

Same shape, random tokens, AdamW with clipping, bf16 autocast over fp32 weights, the loss read each step. Resumes: what
FOLDER holds is not run again, and no case is begun that would not end within the seconds. The table comes last. Two
runs with a CUDA_VISIBLE_DEVICES each may share FOLDER: every row is judged by the ceiling of its own card.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_SEQUENCE, _VOCABULARY = 2048, 151_936
_LEAST_WINDOW_S, _WARM_UP_STEPS = 5.5, 4
_WIDTHS = (10, 7, 7, 8, 6, 9, 12, 9, 11)


@dataclass(frozen=True)
class Case:
    """One row: who trains what.

    Attributes:
        who: `ours`, or a peer: `transformers`, `liger`.
        rows: of 2048 tokens in a step.
        settings: of ours; `compile` and `size` also of a peer.
        seconds: how long it takes at most, with compilation.
    """

    who: str
    size: str
    rows: int = 8
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 90.0

    @property
    def name(self) -> str:
        """What the table calls it."""
        said = [f"{value}" if key in ("mixer", "mlp") else f"{key}={value}" for key, value in self.settings.items()]
        return " ".join([self.who, self.size, *said, *([f"rows={self.rows}"] if self.rows != 8 else [])])


COMPILED = {"compile": True}
CASES = [
    Case("transformers", "0.5b"),
    Case("ours", "0.5b", settings={"mixer": "gqa", **COMPILED}),
    Case("transformers", "0.5b", settings=COMPILED, seconds=100),
    Case("liger", "0.5b"),
    Case("liger", "0.5b", settings=COMPILED, seconds=100),
    Case("ours", "1.5b", settings={"mixer": "gqa", **COMPILED}),
    Case("ours", "3b", settings={"mixer": "gqa", **COMPILED}),
    Case("ours", "0.5b", settings={"mixer": "mla", **COMPILED}),
    Case("ours", "0.5bx8", settings={"mlp": "moe", **COMPILED}, seconds=120),
    Case("ours", "0.5b", settings={"mixer": "mamba2", **COMPILED}, seconds=100),
    Case("ours", "0.5b", settings={"mixer": "gated_deltanet", **COMPILED}, seconds=100),
    Case("ours", "0.5b", settings={"mixer": "rwkv7", **COMPILED}, seconds=100),
    Case("ours", "1.5bx8", rows=4, settings={"mlp": "moe", "weights_dtype": "bfloat16", **COMPILED}, seconds=100),
]


def ours(case: Case) -> tuple[Any, Any, float]:
    """Return what takes a step and returns its loss, the model's counts, and the memory that shapes predict."""
    import torch

    from efficientllm.devices.choose import open_device
    from efficientllm.models.build import build_decoder
    from efficientllm.models.costs import facts
    from efficientllm.planner.predict import predict_training
    from efficientllm.records.choice import Choice
    from efficientllm.records.settings import PretrainSettings
    from efficientllm.training.loop import TrainLoop
    from efficientllm.training.tokens import StepTokens
    from random_text import RandomText

    slots = {key: Choice(name=value) for key, value in case.settings.items() if key in ("mixer", "position")}
    plain = {key: value for key, value in case.settings.items() if key not in ("mixer", "position", "mlp")}
    settings = PretrainSettings(
        size=case.size, dtype="bfloat16", micro_batch=case.rows, sequence_tokens=_SEQUENCE, learning_rate=1e-4,
        tokens=10**10, **slots, **plain,
    )  # fmt: skip
    device = open_device("cuda")
    dtype = getattr(torch, settings.weights_dtype)
    decoder = build_decoder(settings, vocab_tokens=_VOCABULARY, seed=0, device="cuda", dtype=dtype)
    loop = TrainLoop(decoder, settings, StepTokens(RandomText(_VOCABULARY), settings, device.torch_device(), 0), device)  # type: ignore[arg-type] # has what the loop reads
    predicted = predict_training(settings, _VOCABULARY, "cuda").peak_bytes
    return loop.step, facts(decoder, 2, _SEQUENCE, trains_in=torch.bfloat16), predicted


def peer(case: Case) -> tuple[Any, None, None]:
    """Return what takes a step of transformers' Qwen2, as it comes, compiled, or patched by liger-kernel."""
    import torch
    import transformers

    from efficientllm.models.sizes import SIZES
    from random_text import RandomText

    if case.who == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2()
    shape = SIZES[case.size]
    config = transformers.Qwen2Config(
        vocab_size=_VOCABULARY, hidden_size=shape["width"], num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"], num_key_value_heads=shape["num_kv_heads"],
        intermediate_size=shape["mlp_width"], tie_word_embeddings=shape["tie_embeddings"],
        max_position_embeddings=_SEQUENCE, rope_theta=1e6, use_cache=False,
    )  # fmt: skip
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.train()
    run = torch.compile(model) if case.settings.get("compile") else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    text, count = RandomText(_VOCABULARY), iter(range(10**9))

    def step() -> float:
        import numpy as np

        first = next(count) * case.rows
        rows = text.rows(np.arange(first, first + case.rows) * _SEQUENCE, _SEQUENCE)
        tokens = torch.from_numpy(rows[:, :-1]).to("cuda", non_blocking=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = run(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step, None, None


def measure(case: Case, profile: Path | None) -> dict[str, Any]:
    """Run a case in this process and return its figures."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    begin_s = time.perf_counter()
    step, model, predicted = ours(case) if case.who == "ours" else peer(case)
    losses = [step() for _ in range(_WARM_UP_STEPS)]
    torch.cuda.synchronize()  # noqa: TID251 - a benchmark of its own
    startup_s, times = time.perf_counter() - begin_s, []
    torch.cuda.reset_peak_memory_stats()
    joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    begin_s = time.perf_counter()
    while time.perf_counter() - begin_s < _LEAST_WINDOW_S:
        last_s = time.perf_counter()
        losses.append(step())
        torch.cuda.synchronize()  # noqa: TID251
        times.append(time.perf_counter() - last_s)
    elapsed_s = time.perf_counter() - begin_s
    joules = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - joules) / 1e3
    tokens, peak_bytes = case.rows * _SEQUENCE, torch.cuda.max_memory_allocated()
    if profile:
        write_profile(step, profile)
    return {
        "tokens_per_s": tokens / sorted(times)[len(times) // 2],
        "tokens_per_s_mean": tokens * len(times) / elapsed_s,
        "num_steps": len(times),
        "peak_bytes": peak_bytes,
        "predicted_peak_bytes": predicted,
        "energy_per_token_j": joules / (tokens * len(times)),
        "power_mean_w": joules / elapsed_s,
        "startup_s": startup_s,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "flops_per_token": model.train_flops_per_token if model else None,
        "implementations": model.implementations if model else {},
        "device": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }


def write_profile(step: Any, path: Path) -> None:
    """Write the kernels of two steps, longest first, with their share of the time."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        for _ in range(2):
            step()
    kernels: dict[str, list[float]] = {}
    spans = []
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(("Optimizer", "Profiler")):
            kernels.setdefault(event.name[:150], []).append(event.device_time_total)
            spans.append((event.time_range.start, event.time_range.end, event.name))
    total = sum(sum(times) for times in kernels.values())
    lines = [f"{total / 2e3:9.2f} ms a step in {sum(map(len, kernels.values())) / 2:.0f} kernels"]
    spans.sort()
    gaps = [(b[0] - a[1], a[2], b[2]) for a, b in itertools.pairwise(spans) if b[0] > a[1]]
    idle, short = sum(gap for gap, *_ in gaps), sum(gap for gap, *_ in gaps if gap < 10)
    lines.append(f"{idle / 2e3:9.2f} ms a step without a kernel, {short / 2e3:.2f} ms of it in gaps under 10 us")
    lines += [f"{gap / 1e3:9.3f} ms gap  {a[:60]}  ->  {b[:60]}" for gap, a, b in sorted(gaps, reverse=True)[:16]]
    for name, times in sorted(kernels.items(), key=lambda item: -sum(item[1]))[:60]:
        lines.append(f"{sum(times) / 2e3:9.3f} ms {sum(times) / total:6.1%} {len(times) / 2:6.0f} x  {name}")
    path.write_text("\n".join(lines) + "\n")


def matmul_peak() -> dict[str, Any]:
    """Return the device's bf16 peak and the rate that lasts, as the calibration measures them."""
    from efficientllm.devices.calibrate import matmul_bursts, matmul_loop
    from efficientllm.devices.choose import open_device
    from efficientllm.devices.matmul import best_work
    from efficientllm.records.settings import CalibrateSettings

    device, settings = open_device("cuda"), CalibrateSettings(sustained_s=3.0)
    work = best_work(device, "bfloat16", settings.burst_s)
    bursts = sorted(rate for _, rate in matmul_bursts(device, work, settings))
    lasting = [rate for _, rate in matmul_loop(device, work, settings)]
    half = lasting[len(lasting) // 2 :]
    return {"matmul_peak_flops": bursts[len(bursts) // 2], "matmul_sustained_flops": sum(half) / len(half)}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("/tmp/efficientllm-pretrain"))
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--case", type=int)
    given = parser.parse_args()
    if given.list:
        print("\n".join(case.name for case in CASES))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    if given.case is not None:
        run_here(given.case, given.out, given.profile)
        return
    until_s = time.perf_counter() + given.seconds
    wanted = [
        number
        for number in range(len(CASES) + 1)
        if not file_of(given.out, name_of(number)).exists()
        and (not number or not given.only or any(word in f"={name_of(number)}=" for word in given.only))
    ]
    ready = [start(number, given) for number in wanted[:1]]
    for number, following in itertools.zip_longest(wanted, wanted[1:]):
        name, allowed = name_of(number), CASES[number - 1].seconds if number else 60.0
        process = ready.pop()
        ready = [start(following, given)] if following is not None else []  # imports while this one runs
        if time.perf_counter() + allowed > until_s:
            print(f"no time left for {name}", flush=True)
            process.kill()
        else:
            begin_s = time.perf_counter()
            failed = finish(process, name, allowed + 30, given.out)
            print(f"{time.perf_counter() - begin_s:6.1f} s  {name}  {failed}", flush=True)
    print_table(given.out)


def name_of(number: int) -> str:
    """Return the name of a case by its place; 0 is the ceiling of the card that is in sight."""
    return CASES[number - 1].name if number else f"ceiling of card {card()}"


def card() -> str:
    """Return which card this run has, as CUDA_VISIBLE_DEVICES says it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0")


def file_of(out: Path, name: str, kind: str = "") -> Path:
    """Return where a case's figures are stored, or its profile."""
    return out / f"{kind}{name.replace(' ', '_').replace('=', '-')}{'.txt' if kind else '.json'}"


def start(number: int, given: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a case's process, which imports what it needs and then waits for its turn."""
    command = [sys.executable, __file__, "--out", str(given.out), "--case", str(number)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command + ["--profile"] * given.profile, **pipes)  # type: ignore[call-overload]


def finish(process: subprocess.Popen[str], name: str, seconds: float, out: Path) -> str:
    """Give a case its turn and wait for it; return how it failed, or nothing."""
    try:
        said = process.communicate("go\n", timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        failed, said = f"not done after {seconds:.0f} s", ""
    else:
        lines = [line for line in said.strip().splitlines() if "Error" in line] or [f"exit code {process.returncode}"]
        failed = lines[-1] if process.returncode else ""
    if failed:
        file_of(out, name).write_text(json.dumps({"name": name, "failed": failed}))
        with (out / "errors.txt").open("a") as errors:
            errors.write(f"## {name}\n{said[-6000:]}\n")
    return failed


def run_here(number: int, out: Path, profile: bool) -> None:
    """Import, wait for this case's turn, run it and store what came of it."""
    case = CASES[number - 1] if number else None
    import torch  # noqa: F401

    if case and case.who != "ours":
        import transformers

        assert transformers.Qwen2Config and transformers.AutoModelForCausalLM  # loads what stands behind them
    else:
        import efficientllm.training.loop  # noqa: F401
    sys.stdin.readline()
    if case is None:
        record = {"name": name_of(0), **matmul_peak()}
    else:
        file = file_of(out, case.name, "profile_")
        record = {"name": case.name, "card": card(), **asdict(case), **measure(case, file if profile else None)}
    file_of(out, record["name"]).write_text(json.dumps(record, indent=1))


def print_table(out: Path) -> None:
    """Print all that is stored, with ratios to the fastest peer of the same size."""
    records = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    by_name = {record["name"]: record for record in records}
    peaks = {name.split()[-1]: r["matmul_peak_flops"] for name, r in by_name.items() if "matmul_peak_flops" in r}
    order = [by_name[case.name] for case in CASES if case.name in by_name]
    good = [record for record in order if "failed" not in record]
    flops = {r["size"]: r["flops_per_token"] for r in good if r["settings"].get("mixer") == "gqa"}
    peers = [r for r in good if r["who"] != "ours"]
    compiled = next((r for r in peers if r["who"] == "transformers" and r["settings"].get("compile")), None)
    best = max((r["tokens_per_s"] for r in peers if r["size"] == "0.5b"), default=None)
    said = ", ".join(f"{peak / 1e12:.0f} TFLOP/s on card {number}" for number, peak in peaks.items())
    print(f"matmul_peak {said}; rows of {_SEQUENCE} tokens, vocabulary {_VOCABULARY}")
    heads = ("tokens/s", "MFU %", "GB", "mJ/tok", "W", "start s", "x best peer", "GB ratio", "shapes say")
    print(f"{'case':52}" + "".join(f"{head:>{width}}" for head, width in zip(heads, _WIDTHS, strict=True)))
    for record in order:
        if "failed" in record:
            print(f"{record['name'][:51]:52}{record['failed'][:70]}")
            continue
        per_token = record["flops_per_token"] or flops.get(record["size"])
        peak = peaks.get(record["card"])
        mfu = f"{100 * record['tokens_per_s'] * per_token / peak:.1f}" if peak and per_token else "-"
        same = record["size"] == "0.5b" and best
        print(
            f"{record['name'][:51]:52}{record['tokens_per_s']:10,.0f}{mfu:>7}{record['peak_bytes'] / 1e9:7.1f}"
            f"{1e3 * record['energy_per_token_j']:8.1f}{record['power_mean_w']:6.0f}{record['startup_s']:9.1f}"
            + (f"{record['tokens_per_s'] / best:12.2f}" if same else f"{'-':>12}")
            + (f"{record['peak_bytes'] / compiled['peak_bytes']:9.2f}" if same and compiled else f"{'-':>9}")
            + (f"{record['predicted_peak_bytes'] / 1e9:8.1f} GB" if record["predicted_peak_bytes"] else f"{'-':>11}")
        )


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", "/tmp/efficientllm-inductor")
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH", "")]))
    main()
