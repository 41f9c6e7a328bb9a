"""The links between devices of one machine: bytes a second of a copy from one to another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

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
