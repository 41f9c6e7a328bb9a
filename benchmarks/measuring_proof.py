"""Holds the meters to loops whose answer is known, on a CUDA device: the figures of `docs/measuring.md`.

    efficientllm calibrate --results DIR
    python benchmarks/measuring_proof.py DIR          about two minutes; zeus is compared where it is installed

Each loop is measured by `efficientllm.measure`, as anybody's own code would be. Prints a line a check and, last, all of
them as JSON; exits with 1 if one fails.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pynvml
import torch

import efficientllm
from efficientllm.bench.ceilings import stored_calibration
from efficientllm.bench.probe import host_threads
from efficientllm.devices.choose import open_device
from efficientllm.meters.integrate import cut
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.window import Window

BYTES, PASSES = 4 << 30, 8
CHECKS: list[dict[str, object]] = []


def main(results: Path) -> None:
    """Run all loops and print what came of them."""
    device = open_device("cuda")
    calibration = stored_calibration(results, device, host_threads())
    if calibration is None or calibration.ceilings is None:
        sys.exit(f"{results} holds no calibration of this machine: run `efficientllm calibrate` first")
    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByUUID(device.address)
    ceilings, cap_w = calibration.ceilings, device.info().power_cap_w or 0.0
    side = int(calibration.figures["matmul_bfloat16_side"])
    left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)

    def product() -> None:
        torch.matmul(left, right, out=out)

    def measured(name: str, seconds: float, body: Callable[[], object], **work: float) -> Window:
        record = loop(results, name, seconds, body, **work)
        found = record.find("user")
        assert found is not None and record.outcome == "ok", f"{name}: {record.outcome}: {record.reason}"
        return found

    time.sleep(10)
    flops = 2.0 * side**3
    matmul = measured("matmul 10 s", 10.0, lambda: repeat(product, 20), flops=20 * flops)
    rate = second_half_rate(matmul) * 20 * flops
    check("matmul: FLOP/s over matmul_sustained", rate / ceilings.matmul_sustained_flop_per_s["bfloat16"], 0.97, 1.03)
    check("matmul: power over the cap, last 5 s", late_power_w(matmul) / cap_w, 0.90, 1.02)
    check("matmul: counter against integrated power", 1 + matmul.figures["cross_check_ratio"], 0.95, 1.05)
    on_w = matmul.figures["power_mean_w"]

    time.sleep(15)
    idle = measured("sleep", 10.0, lambda: time.sleep(0.25))
    off_w = idle.figures["power_mean_w"]
    check("sleep: power over idle with a context", off_w / calibration.figures["idle_context_power_w"], 0.90, 1.10)

    bandwidth(measured, ceilings)

    begin_j, begin_s = counter_j(card), time.perf_counter()
    sequence = measured("2 s matmul, 2 s idle", 24.0, lambda: on_and_off(product))
    direct_w = (counter_j(card) - begin_j) / (time.perf_counter() - begin_s)
    ours_w = sequence.figures["power_mean_w"]
    check("sequence: power over the counter's own, read directly", ours_w / direct_w, 0.95, 1.05)
    check("sequence: power over half of each part's", ours_w / ((on_w + off_w) / 2), 0.95, 1.05)
    check("sequence: counter against integrated power", 1 + sequence.figures["cross_check_ratio"], 0.95, 1.05)
    zeus(measured, product)
    print(json.dumps({"checks": CHECKS, "watts": {"on": on_w, "off": off_w, "sequence": ours_w, "cap": cap_w}}))
    sys.exit(int(not all(one["ok"] for one in CHECKS)))


def bandwidth(measured: Callable[..., Window], ceilings: Ceilings) -> None:
    """Read and copy out of cache, and compare with the ceilings of both."""
    data = torch.ones(BYTES // 4, device="cuda")
    rows = data.view(-1, 4096)
    source, target = data.chunk(2)
    # several a step: each step ends by waiting for the device, which takes as long as moving 100 MB
    moved = float(PASSES * BYTES)
    read = measured("read", 5.0, lambda: repeat(lambda: torch.mv(rows, rows[0]), PASSES), moved_bytes=moved)
    check("read: MBU", rate_of(read) * moved / ceilings.read_bytes_per_s, 0.95, 1.05)
    copy = measured("copy", 5.0, lambda: repeat(lambda: target.copy_(source), PASSES), moved_bytes=moved)
    check("copy: bytes/s over the copy ceiling", rate_of(copy) * moved / ceilings.copy_bytes_per_s, 0.95, 1.05)


def loop(results: Path, name: str, seconds: float, body: Callable[[], object], **work: float) -> Measurement:
    """Measure a body over and over for so many seconds."""
    with efficientllm.measure(
        name, dtype="bfloat16", device="cuda", results=results, study="measuring", warmup=0, **work
    ) as m:
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            body()
            m.step()
    assert m.measurement is not None
    return m.measurement


def zeus(measured: Callable[..., Window], product: Callable[[], None]) -> None:
    """Compare with Zeus over the same 20 s, where it is installed."""
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        print(f"zeus: not compared ({error})")
        return
    monitor = ZeusMonitor(gpu_indices=[torch.cuda.current_device()])
    monitor.begin_window("warm")
    monitor.end_window("warm")
    seen = []

    def body() -> None:
        if not seen:
            monitor.begin_window("proof")
            seen.append(0)
        repeat(product, 20)

    ours = measured("beside zeus, 20 s", 20.0, body)
    theirs = monitor.end_window("proof")
    energy_j = sum(theirs.gpu_energy.values())
    power_w = energy_j / theirs.time
    print(f"zeus: {energy_j:.1f} J in {theirs.time:.3f} s; ours: {ours.figures['energy_j']:.1f} J "
          f"in {ours.end_s - ours.begin_s:.3f} s")  # fmt: skip
    check("energy over Zeus's, power over the same 20 s", ours.figures["power_mean_w"] / power_w, 0.99, 1.01)


def repeat(body: Callable[[], object], times: int) -> None:
    """Queue a body so many times."""
    for _ in range(times):
        body()


def on_and_off(product: Callable[[], None]) -> None:
    """Multiply for two seconds, then rest for two."""
    end_s = time.perf_counter() + 2
    while time.perf_counter() < end_s:
        repeat(product, 20)
        torch.cuda.current_stream().synchronize()
    time.sleep(2)


def rate_of(window: Window) -> float:
    """Return steps a second."""
    steps = window.find("step_s")
    assert steps is not None
    return len(steps.values) / sum(steps.values)


def second_half_rate(window: Window) -> float:
    """Return steps a second of the second half, as `matmul_sustained` is taken."""
    steps = window.find("step_s")
    assert steps is not None
    return 1 / statistics.median(steps.values[len(steps.values) // 2 :])


def late_power_w(window: Window) -> float:
    """Return the mean power reading of the last 5 s."""
    power = window.find("power_w")
    assert power is not None
    return statistics.fmean(cut(power, window.end_s - 5, window.end_s).values)


def counter_j(card: object) -> float:
    """Read the card's counter without any of this package's code."""
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(card)) / 1e3


def check(what: str, got: float, low: float, high: float) -> None:
    """Print and keep one check."""
    ok = low <= got <= high
    print(f"{'✓' if ok else '✗'} {what:<52} {got:.4f}  wanted {low:g} to {high:g}", flush=True)
    CHECKS.append({"what": what, "got": got, "low": low, "high": high, "ok": ok})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
