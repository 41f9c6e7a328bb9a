"""Whether somebody else is at work on a device: a calibration beside a neighbour would be a lasting lie."""

from __future__ import annotations

import os
import statistics
import time

from efficientllm.devices._contract import Device, SensorError
from efficientllm.units import percent_text

#: Share of a card's time, or of a processor's cores, above which it is not ours alone.
_BUSY = {"busy_ratio": 0.05, "processor": 0.2}
_WATCH_S = 1.0
_LOOK_S = 0.1


def wait_for_quiet(device: Device, patience_s: float) -> str:
    """Wait until nobody else works on the device; return what still runs after `patience_s`, or an empty string."""
    end_s = time.perf_counter() + patience_s
    why = others_at_work(device)
    while why and time.perf_counter() < end_s:
        why = others_at_work(device)
    return why


def others_at_work(device: Device) -> str:
    """Watch a device for a second while this process does nothing; return what runs on it, or an empty string.

    A card by the driver's share of time with a kernel on it, a processor by the seconds that it gave to others.
    What a device does not tell is not held against it.
    """
    try:
        share = _card_share(device)
        if share > _BUSY["busy_ratio"]:
            return f"something runs on {device.info().name} for {percent_text(share)} of the time{_who(device)}"
    except SensorError:
        share = _processor_share(device)
        if share > _BUSY["processor"]:
            return f"other processes take {percent_text(share)} of the processor"
    return ""


def _card_share(device: Device) -> float:
    """Return the mean of the driver's busy share over a second.

    Raises:
        SensorError: the device has none.
    """
    busy = device.sensor("busy_ratio", ())
    looks = []
    end_s = time.perf_counter() + _WATCH_S
    while time.perf_counter() < end_s:
        time.sleep(_LOOK_S)
        looks.append(busy.read())
    return statistics.fmean(looks)


def _processor_share(device: Device) -> float:
    """Return what others took of the processor over a second, 0 where it cannot be told."""
    try:
        everybody, ours = (device.sensor(name, (os.getpid(),)) for name in ("machine_processor_s", "processor_s"))
        before, begin_s = everybody.read() - ours.read(), time.perf_counter()
        time.sleep(_WATCH_S)
        others_s = everybody.read() - ours.read() - before
    except SensorError:
        return 0.0
    return max(0.0, others_s / (time.perf_counter() - begin_s) / max(1, os.cpu_count() or 1))


def _who(device: Device) -> str:
    try:
        pids = device.foreign_pids((os.getpid(),))
    except SensorError:
        return ""
    return f" (processes {', '.join(map(str, pids))})" if pids else ""
