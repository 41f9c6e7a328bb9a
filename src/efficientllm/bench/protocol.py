"""What the protocol does before a worker starts: let the device come to rest, and watch it idle."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from efficientllm.devices._contract import Device
from efficientllm.records.protocol import Protocol
from efficientllm.records.window import Caution

#: Power is at rest when its last readings differ by less than this part of their mean.
_REST_SPREAD = 0.03
_LOOK_S = 0.1
_LOOKS = 10


@dataclass(frozen=True)
class Rest:
    """How the device was before the worker came.

    Attributes:
        begin_s, end_s: edges of the idle time, on `perf_counter`; equal where nothing was watched.
        cautions: `warm_start` when rest did not come within the protocol's longest wait.
    """

    begin_s: float
    end_s: float
    cautions: tuple[Caution, ...] = ()


def settle(device: Device, protocol: Protocol) -> Rest:
    """Wait until power has come to rest, then for the idle time; a device without power readings needs neither."""
    begin_s = time.perf_counter()
    power = next((sensor for sensor in device.sensors([]) if sensor.name == "power_w"), None)
    if power is None:
        return Rest(begin_s, begin_s)
    cautions = () if _comes_to_rest(power.read, protocol.cool_down_max_s) else (_warm_start(protocol),)
    begin_s = time.perf_counter()
    time.sleep(protocol.idle_s)
    return Rest(begin_s, time.perf_counter(), cautions)


def _comes_to_rest(read: Callable[[], float], longest_s: float) -> bool:
    """Whether power settled within the longest wait; a protocol that waits not at all asks for no rest."""
    seen: list[float] = []
    until_s = time.perf_counter() + longest_s
    while time.perf_counter() < until_s:
        seen = [*seen, read()][-_LOOKS:]
        if len(seen) == _LOOKS and max(seen) - min(seen) < _REST_SPREAD * statistics.fmean(seen):
            return True
        time.sleep(_LOOK_S)
    return longest_s == 0


def _warm_start(protocol: Protocol) -> Caution:
    text = f"power had not come to rest after {protocol.cool_down_max_s:g} s; the trial began on a warm device"
    return Caution(code="warm_start", text=text)
