"""What ranks spend on talking to each other in a step: the time that collectives take, and what of it nothing hides.

    compute  ▇▇▇▇▇▇▇▇▇▇▇▇░░▇▇▇▇▇▇▇▇
    NCCL       ▇▇▇▇▇    ▇▇▇▇▇           communication: both spans; exposed: ░, where nothing is computed beside it

On CUDA the spans are those of NCCL's kernels, by torch's profiler. A kernel that waits for a slower rank counts: that
is time lost to being several. On a processor the spans are gloo's own; it computes with the same cores, so that what
is hidden cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from efficientllm.devices._contract import Device
from efficientllm.training.ranks import Ranks

#: In seconds, ascending, from begin to end.
Spans = Sequence[tuple[float, float]]

_STEPS = 3
_NCCL, _GLOO = ("ncclDevKernel", "ncclKernel"), ("gloo:",)
#: Names that mark a region and are no work of the device.
_MARKS = ("nccl:", "FSDP::", "c10d::", "ProfilerStep", "## ", "Optimizer.")

SHARED_CORES = "the processor computes and communicates with the same cores: what is hidden cannot be told"
NOTHING_SEEN = "torch's profiler saw no collective here"


def measure(step: Callable[[], object], ranks: Ranks, device: Device) -> tuple[dict[str, float], dict[str, str]]:
    """Watch some steps with torch's profiler; every rank must call it.

    Args:
        step: one step, or what of it communicates.
        ranks: this one and how many.
        device: of this rank.

    Returns:
        `communication_s_per_step` and `communication_exposed_s_per_step`, each a mean over ranks, and name -> why one
        is absent.
    """
    kind = device.torch_device().type
    step()  # what is set up at the first time is no part
    device.synchronize()
    talking, computing = _watched(step, kind, device)
    exposed = [length(talking) - overlap(talking, computing), length(talking)]
    means = torch.tensor(exposed, dtype=torch.float64, device=device.torch_device()) / _STEPS
    exposed_s, talking_s = ranks.mean_(means).tolist()
    if not talking_s:
        return {}, dict.fromkeys(("communication_s_per_step", "communication_exposed_s_per_step"), NOTHING_SEEN)
    if kind != "cuda":
        return {"communication_s_per_step": talking_s}, {"communication_exposed_s_per_step": SHARED_CORES}
    return {"communication_s_per_step": talking_s, "communication_exposed_s_per_step": exposed_s}, {}


def _watched(step: Callable[[], object], kind: str, device: Device) -> tuple[Spans, Spans]:
    """Return where collectives ran, and where anything else did on the device."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    on_card = kind == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU], acc_events=True) as profiler:
        for _ in range(_STEPS):
            step()
        device.synchronize()
    wanted = DeviceType.CUDA if on_card else DeviceType.CPU
    seen = [
        (event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in profiler.events() or ()
        if event.device_type == wanted and not (on_card and getattr(event, "is_user_annotation", False))
    ]
    talking = [(begin, end) for name, begin, end in seen if name.startswith(_NCCL if on_card else _GLOO)]
    computing = [(begin, end) for name, begin, end in seen if on_card and not name.startswith((*_NCCL, *_MARKS))]
    return union(talking), union(computing)


def union(spans: Spans) -> Spans:
    """Return the same stretches of time without overlaps, ascending.

    >>> union([(3, 4), (0, 2), (1, 2.5)])
    [(0, 2.5), (3, 4)]
    """
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def length(spans: Spans) -> float:
    """Return the seconds that spans without overlaps cover.

    >>> length([(0, 2.5), (3, 4)])
    3.5
    """
    return sum(end - begin for begin, end in spans)


def overlap(first: Spans, second: Spans) -> float:
    """Return the seconds that both cover; neither overlaps itself.

    >>> overlap([(0, 2), (3, 6)], [(1, 4), (5, 9)])
    3
    """
    return length(first) + length(second) - length(union([*first, *second]))
