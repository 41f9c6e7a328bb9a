"""What several ranks said, as one: rank 0 speaks for the trial, the others for what is theirs.

step times                a series for each rank
allocators' peaks         the largest, and each rank's own as `rank_1_allocated_peak_bytes`
memory before the model   of ranks that share a device, together
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from efficientllm.bench.assemble import Told
from efficientllm.devices._contract import QUANTITIES
from efficientllm.records.window import Window

_STEPS, _BASELINE = "step_s", "memory_baseline_bytes"
_PEAKS = ("allocated_peak_bytes", "reserved_peak_bytes")

#: What a doubt about the first machine's devices is a doubt about all.
_KEPT = ("clock_hz", "throttle_reasons", "temperature_c", "num_foreign_processes")
FIRST_NODE_ONLY = "measured on the first node's devices only"


def told_by_all(voices: Sequence[Told], *, shared: bool) -> Told:
    """Add to what rank 0 said what belongs to the others; of one rank as it is.

    Args:
        voices: by rank.
        shared: whether all ranks are on one device.
    """
    first = voices[0]
    if len(voices) == 1:
        return first
    for rank, told in enumerate(voices[1:], 1):
        series = {(window, name, rank): parts for (window, name, _), parts in told.series.items() if name == _STEPS}
        first.series.update({key: parts for key, parts in series.items() if key[0] in first.opened})
    for window in first.opened:
        for name in _PEAKS:
            _take_peaks(voices, window, name)
    _take_baseline(voices, shared=shared)
    return first


def _take_peaks(voices: Sequence[Told], window: int, name: str) -> None:
    peaks = [told.figures.get(window, {}).get(name) for told in voices]
    known = {rank: peak for rank, peak in enumerate(peaks) if peak is not None}
    if not known:
        return
    figures = voices[0].figures.setdefault(window, {})
    figures |= {f"rank_{rank}_{name}": peak for rank, peak in known.items()}
    if len(known) == len(voices):
        figures[name] = max(known.values())
        return
    figures.pop(name, None)
    silent = next(rank for rank, peak in enumerate(peaks) if peak is None)
    voices[0].missing.setdefault(window, {})[name] = f"rank {silent} did not come to say its own"


def _take_baseline(voices: Sequence[Told], *, shared: bool) -> None:
    baselines = [told.figures.get(-1, {}).get(_BASELINE) for told in voices]
    known = [value for value in baselines if value is not None]
    if _BASELINE in voices[0].figures.get(-1, {}):
        if len(known) == len(voices):
            voices[0].figures[-1][_BASELINE] = sum(known) if shared else max(known)
        else:
            del voices[0].figures[-1][_BASELINE]
            voices[0].missing.setdefault(-1, {})[_BASELINE] = "not all ranks came to say what they held"


def of_first_node(window: Window) -> Window:
    """Return a window without what was sampled on the first of several machines alone: no part stands for the whole."""
    dropped = [name for name in QUANTITIES if name not in _KEPT]
    stems = tuple(name.rpartition("_")[0] for name in dropped)
    of_them = ("device_", "rank_", "foreign_", "external_", "sampler_", "cross_", "edge_", "num_energy_", *_PEAKS)
    figures = {name: value for name, value in window.figures.items() if not name.startswith((*stems, *of_them))}
    return msgspec.structs.replace(
        window,
        series=tuple(s for s in window.series if s.name not in dropped and not s.name.startswith("sampler_")),
        figures=figures,
        absent={**window.absent, **dict.fromkeys((*dropped, *_PEAKS), FIRST_NODE_ONLY)},
    )
