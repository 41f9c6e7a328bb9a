"""The roofline: the shortest time in which a device could do a piece of work, and how near a measured step came to it.

    floor = max(model FLOPs / peak FLOP/s, moved bytes / peak bytes/s)        attained = floor / measured

Source: Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from efficientllm.physics.finding import Datasheet, dtype_of, num_devices, steps_s
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window, Work
from efficientllm.units import bytes_text

#: Below so many times the last-level cache, data may stay in the cache from step to step: no bandwidth can be told.
CACHE_MULTIPLE = 4


@dataclass(frozen=True, kw_only=True)
class Roof:
    """Two ceilings; 0 where one is unknown or does not bind."""

    flop_per_s: float = 0.0
    bytes_per_s: float = 0.0


def floor_s(work: Work, roof: Roof) -> float | None:
    """Return the shortest possible time of one step, in seconds, or None where no ceiling applies to the work.

    >>> floor_s(Work(model_flops=2e12, moved_bytes=4e9), Roof(flop_per_s=1e12, bytes_per_s=1e9))
    4.0
    >>> floor_s(Work(model_flops=2e12), Roof(bytes_per_s=1e9)) is None
    True
    """
    times_s = [
        amount / rate
        for amount, rate in ((work.model_flops, roof.flop_per_s), (work.moved_bytes, roof.bytes_per_s))
        if amount > 0 and rate > 0
    ]
    return max(times_s) if times_s else None


def bound(work: Work, roof: Roof) -> str:
    """Return which ceiling the work meets first: `compute`, `memory`, or empty where neither is known.

    >>> bound(Work(model_flops=1e9, moved_bytes=1e9), Roof(flop_per_s=1e12, bytes_per_s=1e10))
    'memory'
    """
    compute_s = floor_s(work, Roof(flop_per_s=roof.flop_per_s))
    memory_s = floor_s(work, Roof(bytes_per_s=roof.bytes_per_s))
    if compute_s is None and memory_s is None:
        return ""
    return "memory" if (memory_s or 0.0) > (compute_s or 0.0) else "compute"


def measured_roof(measurement: Measurement, window: Window) -> Roof:
    """Return the calibrated ceilings for a window: copy bandwidth in training, read bandwidth in inference.

    The bytes/s are left out (0) where the working set may stay in the cache.
    """
    roof = _memory_roof(measurement, window)
    return Roof(flop_per_s=roof.flop_per_s) if cache_reason(measurement, window) else roof


def datasheet_roof(measurement: Measurement, window: Window, datasheet: Datasheet) -> Roof:
    """Return the datasheet's ceilings for a window; the bytes/s as in `measured_roof`."""
    many, clock = num_devices(measurement), window.find("clock_hz")
    above = max(clock.values) / datasheet.boost_clock_hz if clock and clock.values and datasheet.boost_clock_hz else 1.0
    return Roof(
        flop_per_s=max(1.0, above) * many * datasheet.flop_per_s.get(dtype_of(measurement), 0.0),
        bytes_per_s=0.0 if cache_reason(measurement, window) else many * datasheet.bytes_per_s,
    )


def cache_reason(measurement: Measurement, window: Window) -> str:
    """Return why no memory bandwidth can be told from this window, or an empty string."""
    devices = measurement.environment.devices
    cache_bytes = sum(device.last_level_cache_bytes for device in devices)
    if cache_bytes == 0:
        return "the device does not tell the size of its last-level cache"
    if window.work.working_set_bytes >= CACHE_MULTIPLE * cache_bytes:
        return ""
    return (
        f"cache_resident: a step touches less than {CACHE_MULTIPLE} times the last-level cache of "
        f"{bytes_text(cache_bytes)}"
    )


def attained(measurement: Measurement, window: Window) -> float | None:
    """Return the roofline time of the window's own work over its median step.

    None without ceilings or steps, and where moving the bytes would bind but a cache may have served them: then the
    shortest possible time is not known.
    """
    values, roof = steps_s(window), _memory_roof(measurement, window)
    floor = floor_s(window.work, roof)
    if not values or floor is None:
        return None
    if bound(window.work, roof) == "memory" and cache_reason(measurement, window):
        return None
    return floor / statistics.median(values)


def _memory_roof(measurement: Measurement, window: Window) -> Roof:
    """Return the calibrated ceilings as if every byte came from memory."""
    ceilings = measurement.ceilings
    if ceilings is None:
        return Roof()
    many = num_devices(measurement)
    bytes_per_s = ceilings.copy_bytes_per_s if window.name in ("train", "curve") else ceilings.read_bytes_per_s
    flop_per_s = ceilings.matmul_peak_flop_per_s.get(dtype_of(measurement), 0.0)
    return Roof(flop_per_s=many * flop_per_s, bytes_per_s=many * bytes_per_s)
