"""A window's energy, recomputed from the counter's series, or from power where there is no counter.

The counter's first change in a window can be its very first reading, which only the one before it, outside, shows:
either reading of the series is held to be possible, and all figures must follow from the same one.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window
from efficientllm.validity.bounds import Bounds, exactly, integral

_LONG_WINDOW_S, _MANY_UPDATES, _EDGE_STEPS = 5.0, 50, 5
_POWERS = ("power_instant_w", "power_w")
#: Times are stored to a microsecond.
_RESOLUTION_S = 2e-6
_MOST_OUTSIDE, _ABOVE_CAP, _MOST_PAUSE_S = 2.0, 1.2, 1.0


@dataclass(frozen=True, kw_only=True)
class _Change:
    at_s: float
    joules: float
    pause_s: float | None


def wrong_energy(measurement: Measurement, window: Window) -> Iterator[tuple[str, str]]:
    """Yield each energy figure that does not follow from the window's series, with what they give."""
    figures = window.figures
    counters = [series for series in window.series if series.name == "energy_j" and series.values]
    if "energy_j" not in figures:
        return
    if len(counters) == 1 and "energy_snapped_j" in figures:
        yield from _of_counter(counters[0], window, figures)
    for counter in counters if len(counters) > 1 else ():
        told = figures.get(f"device_{counter.device}_energy_j")
        possible = [found["energy_j"].text() for found in _possible(counter, window)]
        if told is not None and not any(f["energy_j"].holds(told) for f in _possible(counter, window)):
            yield f"device_{counter.device}_energy_j", " or ".join(possible) or "nothing"
    parts = [value for name, value in figures.items() if name.startswith("device_") and name.endswith("_energy_j")]
    if len(parts) > 1 and not exactly(sum(parts), 1e-6).holds(figures["energy_j"]):
        yield "energy_j", f"{sum(parts):.6g}, the sum of its devices'"
    yield from _derived(measurement, window, figures)


def _of_counter(counter: Series, window: Window, figures: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    possible = list(_possible(counter, window))
    if not possible:
        yield "energy_j", "nothing: the counter moved less than twice"
        return
    best = min(possible, key=lambda found: len(_not_held(found, figures)))
    for name in _not_held(best, figures):
        yield name, best[name].text()
    resolution = "energy_resolution_j" in figures
    short = window.end_s - window.begin_s < _LONG_WINDOW_S and figures["num_energy_updates"] < _MANY_UPDATES
    if resolution != short:
        yield "energy_resolution_j", "a figure" if short else "none: the window is long enough"


def _not_held(found: Mapping[str, Bounds], figures: Mapping[str, float]) -> list[str]:
    return [name for name, bounds in found.items() if name in figures and not bounds.holds(figures[name])]


def _possible(counter: Series, window: Window) -> Iterator[dict[str, Bounds]]:
    """Yield the figures for the first change at the first reading, and at the first one that is seen to be one."""
    at_s, values = counter.at_s, counter.values
    seen = [
        _Change(at_s=at_s[i], joules=values[i], pause_s=at_s[i] - at_s[i - 1])
        for i in range(1, min(len(values), len(at_s)))
        if values[i] != values[i - 1]
    ]
    pauses = [b - a for a, b in itertools.pairwise(at_s)]
    usual_s = statistics.median(pauses) if pauses else 0.0
    for changes in (seen, [_Change(at_s=at_s[0], joules=values[0], pause_s=None), *seen]):
        if len(changes) > 1 and changes[-1].at_s > changes[0].at_s:
            yield _figures(changes, window, usual_s)


def _figures(changes: list[_Change], window: Window, usual_s: float) -> dict[str, Bounds]:
    steps = [(b.joules - a.joules, b.at_s - a.at_s) for a, b in itertools.pairwise(changes)]
    snapped_j, snapped_s = changes[-1].joules - changes[0].joules, changes[-1].at_s - changes[0].at_s
    power_w, error = snapped_j / snapped_s, _RESOLUTION_S / snapped_s
    first_w, last_w = _mean_power_w(steps[:_EDGE_STEPS]), _mean_power_w(steps[-_EDGE_STEPS:])
    known_j = (
        (changes[-1].pause_s or 0.0) * last_w
        + (changes[0].at_s - window.begin_s) * abs(first_w - power_w)
        + (window.end_s - changes[-1].at_s) * abs(last_w - power_w)
    )
    first_s, most_s = changes[0].pause_s, max(_MOST_PAUSE_S, 10 * usual_s)
    low_s, high_s = (0.0, most_s) if first_s is None else (first_s, first_s)
    slack_j = _RESOLUTION_S * 20 * (abs(first_w) + abs(last_w) + abs(power_w)) * (1 + len(steps))
    return {
        "energy_j": exactly(power_w * (window.end_s - window.begin_s), error),
        "power_mean_w": exactly(power_w, error),
        "energy_snapped_j": exactly(snapped_j),
        "energy_snapped_s": exactly(snapped_s, error),
        "num_energy_updates": exactly(float(len(steps))),
        "edge_error_j": Bounds(low=known_j + low_s * first_w - slack_j, high=known_j + high_s * first_w + slack_j),
        "energy_resolution_j": exactly(max(joules for joules, _ in steps)),
    }


def _mean_power_w(steps: list[tuple[float, float]]) -> float:
    seconds = sum(seconds for _, seconds in steps)
    return sum(joules for joules, _ in steps) / seconds if seconds > 0 else 0.0


def _derived(measurement: Measurement, window: Window, figures: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    energy_j, length_s = figures["energy_j"], window.end_s - window.begin_s
    integrated_j = figures.get("energy_integrated_j")
    expected: dict[str, Bounds] = {"power_mean_w": exactly(energy_j / length_s)} if length_s > 0 else {}
    idle_w = measurement.figures.get("idle_power_w")
    if idle_w is not None and "idle_drift_j" not in figures:
        slack_j = 1e-9 * (abs(energy_j) + abs(idle_w * length_s))
        net_j = energy_j - idle_w * length_s
        expected["energy_net_j"] = Bounds(low=net_j - slack_j, high=net_j + slack_j)
    single = len(measurement.environment.devices) == 1
    if integrated_j is not None and energy_j and single:
        ratio = integrated_j / energy_j - 1
        expected["cross_check_ratio"] = Bounds(low=ratio - 1e-9, high=ratio + 1e-9)
    powers = [s for name in _POWERS for s in window.series if s.name == name and s.values]
    if integrated_j is not None and powers and single:
        cap_w = measurement.environment.devices[0].power_cap_w or 0.0
        most_w = max(_MOST_OUTSIDE * max(max(series.values) for series in powers), _ABOVE_CAP * cap_w)
        areas = [integral(series, window, most_w) for series in powers]
        if not any(area.holds(integrated_j) for area in areas):
            yield "energy_integrated_j", areas[0].text()
    if "energy_snapped_j" not in figures and integrated_j is not None:
        expected["energy_j"] = exactly(integrated_j)
    for name, bounds in expected.items():
        if name in figures and not bounds.holds(figures[name]):
            yield name, bounds.text()
