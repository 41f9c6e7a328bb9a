"""What the protocol does before a worker starts: let the device come to rest, and watch it idle."""

from __future__ import annotations

import statistics
import time

from efficientllm.devices._contract import Device
from efficientllm.records.protocol import Protocol
from efficientllm.records.window import Caution

#: Power is at rest when its last readings differ by less than this part of their mean.
_REST_SPREAD = 0.03
_LOOK_S = 0.1
_LOOKS = 10


def settle(device: Device, protocol: Protocol) -> tuple[Caution, ...]:
    """Wait until power has come to rest, then for the idle time; a device without power readings needs neither.

    Returns the caution `warm_start` when rest did not come within the protocol's longest wait.
    """
    power = next((sensor for sensor in device.sensors([]) if sensor.name == "power_w"), None)
    if power is None:
        return ()
    cautions = () if _rests(power.read, protocol.cool_down_max_s) else (_warm(protocol),)
    time.sleep(protocol.idle_s)
    return cautions


def _rests(read: object, longest_s: float) -> bool:
    assert callable(read)
    seen: list[float] = []
    until_s = time.perf_counter() + longest_s
    while time.perf_counter() < until_s:
        seen = [*seen, float(read())][-_LOOKS:]
        if len(seen) == _LOOKS and max(seen) - min(seen) < _REST_SPREAD * statistics.fmean(seen):
            return True
        time.sleep(_LOOK_S)
    return longest_s == 0


def _warm(protocol: Protocol) -> Caution:
    text = f"power had not come to rest after {protocol.cool_down_max_s:g} s; the trial began on a warm device"
    return Caution(code="warm_start", text=text)
