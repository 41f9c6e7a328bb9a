"""What measuring itself costs: the sampler's share of the processors, and a loop with and without it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from efficientllm.devices._contract import Device
from efficientllm.meters.process import SamplerProcess
from efficientllm.meters.samples import Samples


def sampler_cost_ratio(samples: Samples) -> float | None:
    """Return the sampler's processor seconds over elapsed seconds and processors, None if it did not say them.

    From its first reading on: Python's own start lies before any window.
    """
    own = samples.series.get("sampler_processor_s")
    if own is None or len(own.values) < 2:
        return None
    return (own.values[-1] - own.values[0]) / (own.at_s[-1] - own.at_s[0]) / samples.processors


def own_cost(device: Device, *, rounds: int = 5, round_s: float = 1.0) -> dict[str, float]:
    """Measure what the meters cost on a device, as `doctor` shows it.

    On an accelerator a loop of matrix products, bare beside metered: see `metered_beside_bare`. On a processor the
    sampler's own share of the cores; a loop beside it would show the neighbours.
    """
    if device.torch_device().type == "cpu":
        with SamplerProcess.start(device, [os.getpid()]) as sampler:
            time.sleep(rounds * round_s)
        cost = sampler_cost_ratio(sampler.stop())
        return {"sampler_start_s": sampler.start_s} | ({} if cost is None else {"sampler_cost_ratio": cost})
    import torch

    side = torch.randn(4096, 4096, device=device.torch_device(), dtype=torch.bfloat16)
    return metered_beside_bare(device, lambda: side @ side, rounds=rounds, round_s=round_s)


def metered_beside_bare(
    device: Device, work: Callable[[], object], *, rounds: int = 5, round_s: float = 0.5, interval_s: float = 0.05
) -> dict[str, float]:
    """Repeat a piece of work bare and metered, turn by turn, and compare their medians.

    Args:
        device: what the sampler watches and what is synchronised.
        work: one piece, milliseconds long.
        rounds: turns of each kind.
        round_s: length of a turn.
        interval_s: the sampler's pause between two readings.

    Returns:
        `bare_s` and `metered_s` a piece, their ratio minus 1 as `metered_slowdown_ratio`, and the spread of the bare
        rounds, `bare_spread_ratio`, below which a slowdown means nothing; `sampler_cost_ratio` and `sampler_start_s`.
    """
    bare_s, metered_s, costs, starts_s = [], [], [], []
    _turn_s(device, work, round_s)  # not counted: caches and clocks rise
    for _ in range(rounds):
        bare_s.append(_turn_s(device, work, round_s))
        with SamplerProcess.start(device, [os.getpid()], interval_s=interval_s) as sampler:
            metered_s.append(_turn_s(device, work, round_s))
        costs.append(sampler_cost_ratio(sampler.stop()))
        starts_s.append(sampler.start_s)
    figures = {
        "bare_s": statistics.median(bare_s),
        "metered_s": statistics.median(metered_s),
        "metered_slowdown_ratio": statistics.median(metered_s) / statistics.median(bare_s) - 1,
        "bare_spread_ratio": (max(bare_s) - min(bare_s)) / statistics.median(bare_s),
        "sampler_start_s": statistics.median(starts_s),
    }
    told = [cost for cost in costs if cost is not None]
    return figures | ({"sampler_cost_ratio": statistics.median(told)} if told else {})


def _turn_s(device: Device, work: Callable[[], object], round_s: float) -> float:
    """Return seconds a piece over one turn."""
    pieces, begin_s = 0, time.perf_counter()
    while time.perf_counter() - begin_s < round_s:
        work()
        device.synchronize()
        pieces += 1
    return (time.perf_counter() - begin_s) / pieces
