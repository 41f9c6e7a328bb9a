"""Measures what a device can reach: the ceilings by which every technique on it is judged.

    for each number format:  find the best shape ─► bursts with rests (peak) ─► one long loop (sustained)
    then:                    read and copy by working set ─► links to other devices ─► the smallest operation

The device should have rested before: the peak is what it does cool, the sustained rate what power and heat leave.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from efficientllm.devices._contract import Device
from efficientllm.devices.links import measure_links
from efficientllm.devices.matmul import MatmulWork, Unmeasurable, best_work
from efficientllm.records.measurement import Ceilings
from efficientllm.records.series import Series
from efficientllm.records.settings import CalibrateSettings

#: Called with (done, total, what is measured now).
Progress = Callable[[float, float, str], None]

_SMALLEST_SET_BYTES = 1 << 20
_LARGEST_SET_BYTES = 8 << 30
_AMPLE_SET_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}  # large enough that beginning and end of an operation vanish
_CACHES = 4  # a working set of so many last-level caches is out of cache
_ROW = 4096
_BANDWIDTH_BURSTS = 5
_LAUNCHES = 2000


class Calibration(NamedTuple):
    """The ceilings and what they come from.

    Attributes:
        ceilings: the record; `idle_power_w` and `calibration` are left to the caller.
        series: one a number format and loop, FLOP/s at each burst's end; `at_s` is of `perf_counter`.
        figures: bytes/s by working set and to each other device; the best shape (`matmul_bfloat16_side`); how far
            the bursts differed (`matmul_bfloat16_spread_ratio`, largest minus smallest over the median: high where
            others disturbed).
        absent: quantity -> why it was not measured (a number format that the device lacks).
    """

    ceilings: Ceilings
    series: list[Series]
    figures: dict[str, float]
    absent: dict[str, str]


def measure_ceilings(device: Device, settings: CalibrateSettings, progress: Progress) -> Calibration:
    """Measure all ceilings of a device.

    Args:
        device: opened; its torch face is used.
        settings: number formats, length and number of bursts.
        progress: is told how far it is.
    """
    peak: dict[str, float] = {}
    sustained: dict[str, float] = {}
    series: list[Series] = []
    figures: dict[str, float] = {}
    absent: dict[str, str] = {}
    steps = len(settings.dtypes) + 2
    for done, dtype in enumerate(settings.dtypes):
        progress(done, steps, f"matrix product, {dtype}")
        try:
            work = best_work(device, dtype, settings.burst_s)
        except Unmeasurable as error:
            absent[f"matmul_{dtype}_flop_per_s"] = str(error)
            continue
        bursts = matmul_bursts(device, work, settings)
        lasting = matmul_loop(device, work, settings)
        series += [_series(f"matmul_burst_{dtype}", bursts), _series(f"matmul_sustained_{dtype}", lasting)]
        sustained[dtype] = _second_half(lasting)
        # a processor's threads wake slowly after a rest: a rate that lasts is reached in any case
        peak[dtype] = max(statistics.median(rate for _, rate in bursts), sustained[dtype])
        figures[f"matmul_{dtype}_side"] = float(work.side)
        figures[f"matmul_{dtype}_spread_ratio"] = _spread(bursts)
        del work
        device.empty_cache()
    progress(steps - 2, steps, "memory bandwidth")
    bandwidth = measure_bandwidth(device, settings.burst_s)
    figures |= {f"{name}_at_{size}_bytes_per_s": rate for (name, size), rate in bandwidth.items()}
    links = measure_links(device)
    figures |= links
    if not links:
        absent["link_bytes_per_s"] = "there is no second device of this kind to link to"
    progress(steps - 1, steps, "launch overhead")
    ceilings = Ceilings(
        matmul_peak_flop_per_s=peak,
        matmul_sustained_flop_per_s=sustained,
        read_bytes_per_s=_out_of_cache(bandwidth, "read"),
        copy_bytes_per_s=_out_of_cache(bandwidth, "copy"),
        link_bytes_per_s=min(links.values(), default=0.0),
        launch_s=measure_launch_s(device),
    )
    progress(steps, steps, "done")
    return Calibration(ceilings, series, figures, absent)


def matmul_bursts(device: Device, work: MatmulWork, settings: CalibrateSettings) -> list[tuple[float, float]]:
    """Return (end, FLOP/s) of each burst; each follows a rest as long, so that power limits stay away."""
    rates = []
    for _ in range(settings.bursts):
        time.sleep(settings.burst_s)
        work.product()  # not timed: it wakes the device
        rates.append(_timed(device, work, settings.burst_s))
    return rates


def matmul_loop(device: Device, work: MatmulWork, settings: CalibrateSettings) -> list[tuple[float, float]]:
    """Return (end, FLOP/s) of bursts back to back over `sustained_s` seconds, at least two."""
    end_s = time.perf_counter() + settings.sustained_s
    rates = [_timed(device, work, settings.burst_s)]
    while time.perf_counter() < end_s or len(rates) < 2:
        rates.append(_timed(device, work, settings.burst_s))
    return rates


def measure_bandwidth(device: Device, burst_s: float) -> dict[tuple[str, int], float]:
    """Return (`read` or `copy`, working set in bytes) -> bytes/s.

    A read is the fastest of a sum, a dot product with itself and a matrix-vector product; a copy counts what it
    reads and what it writes. The working set of a copy is both buffers together.
    """
    found: dict[tuple[str, int], float] = {}
    sizes = working_sets(device)
    everything = torch.ones(sizes[-1] // 4, dtype=torch.float32, device=device.torch_device())
    for size in sizes:
        data = everything[: size // 4]
        found["read", size] = max(_bytes_per_s(device, read, size, burst_s) for read in _reads(data))
        found["copy", size] = _bytes_per_s(device, _copy(data), size, burst_s)
    return found


def working_sets(device: Device) -> list[int]:
    """Return sizes in powers of four, the last one out of cache where memory allows (an eighth of it at most)."""
    info, ample = device.info(), _AMPLE_SET_BYTES.get(device.torch_device().type, 1 << 28)
    largest = max(_CACHES * info.last_level_cache_bytes, ample)
    largest = min(largest, _LARGEST_SET_BYTES, max(info.capacity_bytes // 8, _SMALLEST_SET_BYTES))
    return [*_powers_of_four(_SMALLEST_SET_BYTES, largest), largest]


def measure_launch_s(device: Device) -> float:
    """Return the seconds from one smallest operation to the next, the median over ten rounds."""
    one = torch.ones(1, device=device.torch_device())
    rounds = []
    for _ in range(10):
        device.synchronize()
        begin_s = time.perf_counter()
        for _ in range(_LAUNCHES // 10):
            one.add_(1.0)
        device.synchronize()
        rounds.append((time.perf_counter() - begin_s) / (_LAUNCHES // 10))
    return statistics.median(rounds)


def _timed(device: Device, work: MatmulWork, burst_s: float) -> tuple[float, float]:
    """Run as many products as fill a burst, without waiting in between; return (end, FLOP/s)."""
    times = max(1, round(burst_s / work.product_s))
    elapsed_s = _repeat_s(device, work.product, times)
    return time.perf_counter(), times * work.flop / elapsed_s


def _bytes_per_s(device: Device, operation: Callable[[], object], size: int, burst_s: float) -> float:
    """Return the best rate of some bursts of an operation that crosses the memory with `size` bytes.

    The best, not the median: on a processor each operation ends with its slowest thread, so that a neighbour who
    takes one core for a moment would be taken for a slow memory.
    """
    operation()
    one_s = min(_repeat_s(device, operation, 1) for _ in range(_BANDWIDTH_BURSTS))
    times = int(burst_s / _BANDWIDTH_BURSTS / one_s)
    if times < 2:
        return size / one_s
    return times * size / min(_repeat_s(device, operation, times) for _ in range(_BANDWIDTH_BURSTS))


def _repeat_s(device: Device, operation: Callable[[], object], times: int) -> float:
    device.synchronize()
    begin_s = time.perf_counter()
    for _ in range(times):
        operation()
    device.synchronize()
    return time.perf_counter() - begin_s


def _reads(data: torch.Tensor) -> Iterator[Callable[[], object]]:
    rows = data[: data.numel() // _ROW * _ROW].view(-1, _ROW)
    yield lambda: torch.sum(data)
    yield lambda: torch.mv(rows, rows[0])
    if data.numel() < 1 << 31:  # BLAS counts elements in 32 bits
        yield lambda: torch.dot(data, data)


def _copy(data: torch.Tensor) -> Callable[[], object]:
    """Return a copy of one half of the data over the other."""
    source, target = data.chunk(2)
    return lambda: target.copy_(source)


def _powers_of_four(first: int, below: int) -> Iterator[int]:
    while first < below:
        yield first
        first *= 4


def _out_of_cache(bandwidth: dict[tuple[str, int], float], name: str) -> float:
    """Return the rate of the largest working set."""
    return bandwidth[name, max(size for kind, size in bandwidth if kind == name)]


def _second_half(rates: list[tuple[float, float]]) -> float:
    return statistics.median(rate for _, rate in rates[len(rates) // 2 :])


def _spread(rates: list[tuple[float, float]]) -> float:
    values = [rate for _, rate in rates]
    return (max(values) - min(values)) / statistics.median(values)


def _series(name: str, rates: list[tuple[float, float]]) -> Series:
    return Series(
        name=f"{name}_flop_per_s",
        unit="flop/s",
        at_s=tuple(at_s for at_s, _ in rates),
        values=tuple(rate for _, rate in rates),
        source="torch.matmul",
    )
