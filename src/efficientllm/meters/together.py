"""The figures of one window on several devices: what adds up, what is the fullest device's, and what is a mean.

    energy, power             the sum over devices; of powers' peaks too, which need not fall together
    memory                    the fullest device's: it decides what fits
    temperatures, throttling  the worst device's
    utilisation               the mean

A figure that one device lacks is absent for all, with that device's reason: no sum is silently of a part.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from efficientllm.meters import external
from efficientllm.meters.samples import Samples
from efficientllm.meters.windows import WindowFigures, add_external, window_figures

#: What is kept of each device beside the figure of all, as `device_1_energy_j`.
_KEPT = ("energy_j", "power_mean_w", "process_memory_peak_bytes")
#: Shares that are costs or limits of the machine: those of all samplers, and of the device that was slowed most.
_SUMMED, _WORST = ("sampler_cost_ratio", "sampler_processor_s"), ("throttled_ratio", "power_capped_ratio")
#: Error terms that only a window with such an error has.
_OPTIONAL = ("energy_resolution_j", "idle_drift_j")
_OF_THE_METER = ("external_energy_j", "energy_systematic_bound_ratio")


def figures_of_all(
    seen: Sequence[Samples], begin_s: float, end_s: float, idle: Sequence[Mapping[str, float]]
) -> WindowFigures:
    """Cut what the samplers of some devices saw to a window and sum it up; of one device as `window_figures` does.

    Args:
        seen: by device; an external meter's readings are with the first.
        begin_s: the window's begin.
        end_s: the window's end.
        idle: by device, `idle_power_w` and `external_idle_power_w` where they were measured before the trial.
    """
    own_idle = [(one["idle_power_w"],) if "idle_power_w" in one else () for one in idle]
    external_idle_w = idle[0].get("external_idle_power_w") if idle else None
    if len(seen) == 1:
        return window_figures(
            seen[0], begin_s, end_s, idle_power_w=own_idle[0] if own_idle else (), external_idle_w=external_idle_w
        )
    parts = [
        window_figures(samples, begin_s, end_s, idle_power_w=own)
        for samples, own in zip(seen, own_idle or [()] * len(seen), strict=True)
    ]
    for _, figures, absent in parts:  # the meter is compared with all devices, not with each
        for name in _OF_THE_METER:
            figures.pop(name, None)
            absent.pop(name, None)
    figures, absent = together([part[1] for part in parts], [part[2] for part in parts])
    meter = seen[0].series.get(external.NAME)
    idle_w = (sum(own[0] for own in own_idle if own),) if all(own_idle) and own_idle else ()
    add_external(meter, begin_s, end_s, idle_w, external_idle_w, figures, absent)
    return [series for part in parts for series in part[0]], dict(sorted(figures.items())), absent


def together(
    figures: Sequence[Mapping[str, float]], absent: Sequence[Mapping[str, str]]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the figures of all devices, and why some are absent.

    >>> together([{"energy_j": 3.0, "process_memory_peak_bytes": 7.0}, {"energy_j": 4.0}],
    ...          [{}, {"process_memory_bytes": "not told"}])[0]["energy_j"]
    7.0
    """
    found: dict[str, float] = {}
    why: dict[str, str] = {}
    for number, reasons in enumerate(absent):
        for name, reason in reasons.items():
            why.setdefault(name, reason if all(name in other for other in absent) else f"device {number}: {reason}")
    for name in dict.fromkeys(name for one in figures for name in one):
        values = [one[name] for one in figures if name in one]
        if len(values) == len(figures) or name in _OPTIONAL or name.startswith("external_"):
            found[name] = _of_all(name, values)
        else:
            lacking = next(number for number, one in enumerate(figures) if name not in one)
            why.setdefault(name, f"device {lacking} has none")
    for number, one in enumerate(figures):
        found |= {f"device_{number}_{name}": one[name] for name in _KEPT if name in one}
    return found, why


def _of_all(name: str, values: Sequence[float]) -> float:
    """Return one figure of all devices.

    >>> _of_all("power_peak_w", [3.0, 4.0]), _of_all("clock_low_hz", [3.0, 4.0]), _of_all("busy_mean_ratio", [0.5, 1.0])
    (7.0, 3.0, 0.75)
    >>> _of_all("process_memory_mean_bytes", [3.0, 4.0]), _of_all("cross_check_ratio", [0.01, -0.02])
    (4.0, -0.02)
    """
    if name == "cross_check_ratio":
        return max(values, key=abs)
    if len(values) == 1:
        return values[0]
    if name.endswith(("_j", "_w")) or name in _SUMMED:
        return sum(values)
    if "_low_" in name or name in ("num_energy_updates", "energy_snapped_s"):
        return min(values)
    if name.endswith("_bytes") or "_peak" in name or name in _WORST or name.endswith("_s"):
        return max(values)
    return statistics.fmean(values)
