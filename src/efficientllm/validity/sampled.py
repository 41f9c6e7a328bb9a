"""What meters said of a window, recomputed from their series: peaks, means, growth, shares."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window
from efficientllm.validity.bounds import Bounds, exactly, growth, integral, of_all

#: A figure's name and between which values it must lie.
Expected = tuple[str, Bounds]

#: Told by others: workloads' own series, energy, and bits that are counted, not averaged.
_OWN_RULES = ("energy_j", "power_w", "power_instant_w", "throttle_reasons")
#: NVML's bits for a clock slowed by heat or fault, and by the power cap.
_SLOWED, _CAPPED = 0x8 | 0x20 | 0x40 | 0x80, 0x4
#: The kernel counts processors' time in ticks of 10 ms, and several clocks are read one after another.
_TICKS_S = 0.05
#: Readings just outside a window are taken to be no more than so many times the largest of the record's.
_MOST_OUTSIDE = 4.0


def expected(measurement: Measurement, window: Window) -> Iterator[Expected]:
    """Yield each figure of a window's sampled series that the window may have, with its bounds."""
    by_name: dict[str, list[Series]] = {}
    for series in window.series:
        if series.values:
            by_name.setdefault(series.name, []).append(series)
    for name, found in by_name.items():
        if name in window.figures and name not in _OWN_RULES:
            if len(found) == 1:
                yield from _grown(measurement, window, found[0])
        elif name not in _OWN_RULES:
            yield from _levels(measurement, window, name, found)
    yield from _power_peaks(by_name)
    yield from _throttled(by_name.get("throttle_reasons", []))
    yield from _shares(measurement, window)


def _levels(measurement: Measurement, window: Window, name: str, found: list[Series]) -> Iterator[Expected]:
    unit = found[0].unit
    peak, low, mean = (_named(name, unit, what) for what in ("peak", "low", "mean"))
    yield peak, of_all(peak, [exactly(max(series.values)) for series in found])
    yield low, of_all(low, [exactly(min(series.values)) for series in found])
    length_s = window.end_s - window.begin_s
    if length_s <= 0 or (name == "busy_ratio" and "processor_s" in window.figures):
        return
    most = _most(measurement, name, unit)
    areas = [integral(series, window, most) for series in found]
    yield mean, of_all(mean, [Bounds(low=area.low / length_s, high=area.high / length_s) for area in areas])


def _grown(measurement: Measurement, window: Window, series: Series) -> Iterator[Expected]:
    cores = max((device.cores for device in measurement.environment.devices), default=0)
    rates = {"processor_s": float(cores), "sampler_processor_s": 2.0}
    most_per_s = rates.get(series.name, float(processors(window) or 0))
    if most_per_s and len(series.values) > 1:
        bounds = growth(series, window, 1.2 * most_per_s)
        yield series.name, Bounds(low=bounds.low - _TICKS_S, high=bounds.high + _TICKS_S * most_per_s)


def _power_peaks(by_name: dict[str, list[Series]]) -> Iterator[Expected]:
    for name in ("power_w", "power_instant_w"):
        if name in by_name:
            peak = _named(name, "w", "peak")
            yield peak, of_all(peak, [exactly(max(series.values)) for series in by_name[name]])


def _throttled(reasons: list[Series]) -> Iterator[Expected]:
    for name, bits in (("throttled_ratio", _SLOWED), ("power_capped_ratio", _CAPPED)):
        shares = [sum(1 for value in one.values if int(value) & bits) / len(one.values) for one in reasons]
        if shares:
            yield name, exactly(max(shares))


def _shares(measurement: Measurement, window: Window) -> Iterator[Expected]:
    """Shares of the machine's processors; of one device, whose figures are not mixed with another's."""
    figures, length_s = window.figures, window.end_s - window.begin_s
    devices = measurement.environment.devices
    if len(devices) != 1 or length_s <= 0:
        return
    if "processor_s" in figures and devices[0].cores and any(s.name == "processor_s" for s in window.series):
        yield "busy_mean_ratio", exactly(figures["processor_s"] / length_s / devices[0].cores)
    count = processors(window)
    if count is None:
        return
    own_s = figures["sampler_processor_s"]
    yield "sampler_cost_ratio", exactly(own_s / length_s / count)
    if {"machine_processor_s", "processor_s"} <= figures.keys():
        foreign_s = figures["machine_processor_s"] - figures["processor_s"] - own_s
        yield "foreign_busy_ratio", exactly(max(0.0, foreign_s) / length_s / count)


def processors(window: Window) -> int | None:
    """Return how many processors the machine has, as the sampler's share of them tells; None where it does not."""
    own_s, share = window.figures.get("sampler_processor_s"), window.figures.get("sampler_cost_ratio")
    length_s = window.end_s - window.begin_s
    if not own_s or not share or length_s <= 0:
        return None
    return max(1, round(own_s / share / length_s))


def _most(measurement: Measurement, name: str, unit: str) -> float:
    """Return what a reading just outside the window can have been at most."""
    every = [s for w in measurement.windows for s in w.series if s.name == name]
    largest = max(itertools.chain.from_iterable(series.values for series in every), default=0.0)
    if unit == "bytes":
        return max(_MOST_OUTSIDE * largest, max((d.capacity_bytes for d in measurement.environment.devices), default=0))
    return max(largest, 1.1) if unit == "ratio" else _MOST_OUTSIDE * largest


def _named(name: str, unit: str, what: str) -> str:
    """Put a word before the unit: `process_memory_bytes` -> `process_memory_peak_bytes`."""
    stem, _, tail = name.rpartition("_")
    return f"{stem}_{what}_{tail}" if stem and unit != "count" else f"{name}_{what}"
