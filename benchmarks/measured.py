"""What the benchmarks of training share: cases in processes of their own, one after another, that resume.

A benchmark says what its cases are, how one is made, and how the table is printed:

    python benchmarks/pretrain.py [--out FOLDER] [--seconds 540] [--only NAME …] [--profile] [--list]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEAST_WINDOW_S, WARM_UP_STEPS = 5.5, 4


@dataclass(frozen=True)
class Bench:
    """A benchmark.

    Attributes:
        script: its file.
        sequence: tokens of a row.
        cases: rows of the table; each has `name`, `who`, `rows` and `seconds`.
        make: case -> what takes a step and returns its loss, the model's counts, predicted memory, more to record.
        print_table: prints what a folder holds.
        device: `cuda`, or `cpu` to see that it all runs.
    """

    script: str
    sequence: int
    cases: Sequence[Any]
    make: Callable[[Any], tuple[Any, Any, Any, dict[str, Any]]]
    print_table: Callable[[Path], None]
    device: str = "cuda"


class Energy:
    """Joules that the device has taken; none on a processor."""

    def __init__(self, device: str) -> None:
        self._handle = None
        if device == "cuda":
            import pynvml
            import torch

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")

    def joules(self) -> float:
        """Return the counter."""
        import pynvml

        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3 if self._handle else float("nan")


def measure(bench: Bench, case: Any, profile: Path | None) -> dict[str, Any]:
    """Run a case in this process and return its figures."""
    import torch

    on_cuda = bench.device == "cuda"
    wait = torch.cuda.synchronize if on_cuda else lambda: None  # noqa: TID251 - a benchmark of its own
    energy, begin_s = Energy(bench.device), time.perf_counter()
    step, model, predicted, more = bench.make(case)
    losses = [step() for _ in range(WARM_UP_STEPS)]
    wait()
    startup_s, times = time.perf_counter() - begin_s, []
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    joules, begin_s = energy.joules(), time.perf_counter()
    while time.perf_counter() - begin_s < (LEAST_WINDOW_S if on_cuda else 0.2):
        last_s = time.perf_counter()
        losses.append(step())
        wait()
        times.append(time.perf_counter() - last_s)
    elapsed_s = time.perf_counter() - begin_s
    joules = energy.joules() - joules
    tokens, peak_bytes = case.rows * bench.sequence, torch.cuda.max_memory_allocated() if on_cuda else 0
    if profile and on_cuda:
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
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        **more,
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


def arguments(description: str | None, out: str) -> argparse.ArgumentParser:
    """Return what every benchmark of training can be told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--case", type=int)
    return parser


def go(bench: Bench, given: argparse.Namespace) -> None:
    """Run what is missing, then print the table."""
    if given.list:
        print("\n".join(case.name for case in bench.cases))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    if given.case is not None:
        run_here(bench, given.case, given.out, given.profile)
        return
    until_s = time.perf_counter() + given.seconds
    wanted = [
        number
        for number in range(bench.device != "cuda", len(bench.cases) + 1)
        if not file_of(given.out, name_of(bench, number)).exists()
        and (not number or not given.only or any(word in f"={name_of(bench, number)}=" for word in given.only))
    ]
    ready = [start(bench, number, given) for number in wanted[:1]]
    for number, following in itertools.zip_longest(wanted, wanted[1:]):
        name, allowed = name_of(bench, number), bench.cases[number - 1].seconds if number else 60.0
        process = ready.pop()
        ready = [start(bench, following, given)] if following is not None else []  # imports while this one runs
        if time.perf_counter() + allowed > until_s:
            print(f"no time left for {name}", flush=True)
            process.kill()
        else:
            begin_s = time.perf_counter()
            failed = finish(process, name, 2 * allowed, given.out)
            print(f"{time.perf_counter() - begin_s:6.1f} s  {name}  {failed}", flush=True)
    bench.print_table(given.out)


def name_of(bench: Bench, number: int) -> str:
    """Return the name of a case by its place; 0 is the ceiling of the card that is in sight."""
    return bench.cases[number - 1].name if number else f"ceiling of card {card()}"


def card() -> str:
    """Return which card this run has, as CUDA_VISIBLE_DEVICES says it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0")


def file_of(out: Path, name: str, kind: str = "") -> Path:
    """Return where a case's figures are stored, or its profile."""
    return out / f"{kind}{name.replace(' ', '_').replace('=', '-')}{'.txt' if kind else '.json'}"


def start(bench: Bench, number: int, given: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a case's process, which imports what it needs and then waits for its turn."""
    command = [sys.executable, bench.script, "--out", str(given.out), "--case", str(number)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command + ["--profile"] * given.profile + ["--smoke"] * getattr(given, "smoke", False), **pipes
    )  # type: ignore[call-overload]


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


def run_here(bench: Bench, number: int, out: Path, profile: bool) -> None:
    """Import, wait for this case's turn, run it and store what came of it."""
    case = bench.cases[number - 1] if number else None
    import torch  # noqa: F401

    if case and case.who != "ours":
        import transformers

        assert transformers.Qwen2Config and transformers.AutoModelForCausalLM  # loads what stands behind them
    else:
        import efficientllm.training.loop  # noqa: F401
    sys.stdin.readline()
    if case is None:
        record = {"name": name_of(bench, 0), **matmul_peak()}
    else:
        file = file_of(out, case.name, "profile_")
        record = {"name": case.name, "card": card(), **asdict(case), **measure(bench, case, file if profile else None)}
    file_of(out, record["name"]).write_text(json.dumps(record, indent=1))
