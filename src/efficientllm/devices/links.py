"""The links between devices: bytes a second of a copy from one to another, and of a collective over all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from efficientllm.devices._contract import Device

#: Large enough that beginning and end of a copy vanish.
_COPY_BYTES = 1 << 30
_COPIES = 5


def measure_links(device: Device) -> dict[str, float]:
    """Return `link_to_<number>_bytes_per_s` for each other device of this kind, one direction; empty where none is."""
    found = {}
    for peer in device.peers():
        source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device.torch_device()).random_(256)
        target = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=peer)
        found[f"link_to_{peer.index}_bytes_per_s"] = link_bytes_per_s(lambda s=source, t=target: t.copy_(s), device)  # type: ignore[misc]
        del source, target
    return found


def link_bytes_per_s(copy: Callable[[], object], device: Device, num_bytes: int = _COPY_BYTES) -> float:
    """Return the median rate of some copies, each waited for on the sending side; the first is not timed."""
    rates = []
    for _ in range(_COPIES + 1):
        device.synchronize()
        begin_s = time.perf_counter()
        copy()
        device.synchronize()
        rates.append(num_bytes / (time.perf_counter() - begin_s))
    return statistics.median(rates[1:])


def measure_collectives(device: Device, sizes: Sequence[int]) -> dict[str, float]:
    """Return `<collective>_<bytes>_bus_bytes_per_s` of all-gather, reduce-scatter and all-reduce over all ranks.

    The size is that of the whole, gathered tensor. Bus bandwidth is what crosses each device's link in one direction:
    (n - 1) / n of the whole for the first two, twice that for all-reduce, over the time; it compares with the link's
    own rate whatever n is. Source: NVIDIA, nccl-tests, doc/PERFORMANCE.md.

    The ranks must have met (`training.ranks.joined`); every one must call it, and the slowest decides.
    """
    import torch.distributed as dist

    world, where = dist.get_world_size(), device.torch_device()
    found = {}
    for size in sizes:
        numbers = size // 2 // world * world
        whole = torch.ones(numbers, dtype=torch.bfloat16, device=where)
        share = torch.ones(numbers // world, dtype=torch.bfloat16, device=where)
        crossing = 2 * numbers * (world - 1) / world
        calls: dict[str, tuple[float, Callable[[], object]]] = {
            "all_gather": (crossing, lambda w=whole, s=share: dist.all_gather_into_tensor(w, s)),  # type: ignore[misc]
            "reduce_scatter": (crossing, lambda w=whole, s=share: dist.reduce_scatter_tensor(s, w)),  # type: ignore[misc]
            "all_reduce": (2 * crossing, lambda w=whole: dist.all_reduce(w)),  # type: ignore[misc]
        }
        for name, (num_bytes, call) in calls.items():
            rate = torch.tensor(link_bytes_per_s(call, device, int(num_bytes)), dtype=torch.float64, device=where)
            dist.all_reduce(rate, dist.ReduceOp.MIN)
            found[f"{name}_{size}_bus_bytes_per_s"] = float(rate)
    return found
