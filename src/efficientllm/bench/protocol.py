"""What the protocol does around a worker's start: let the device come to rest, and watch it idle.

cool-down until power and clocks settle ── idle, no context ── worker starts ── idle, with a context ── load …
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.devices._contract import Device, Sensor, SensorError
from efficientllm.records.protocol import Protocol
from efficientllm.records.window import Work
from efficientllm.workloads._contract import Recorder

#: A reading is at rest when its last looks differ by less than this part of their mean.
_REST_SPREAD = 0.03
_LOOK_S = 0.1
_LOOKS = 10

#: What has to come to rest, where the device tells it.
_SETTLING = ("power_w", "clock_hz")
#: What an idle device is watched for: either of them gives idle power.
_IDLE_POWER = ("energy_j", "power_w")


@dataclass(frozen=True)
class Rest:
    """How the device was before the worker came.

    Attributes:
        begin_s, end_s: edges of the idle time, on `perf_counter`; equal where nothing was watched.
        cool_down_s: how long power and clocks took to settle; the protocol's longest wait if they did not.
    """

    begin_s: float
    end_s: float
    cool_down_s: float = 0.0


def settle(devices: Sequence[Device], protocol: Protocol) -> Rest:
    """Wait until power and clocks of all devices have come to rest, then for the idle time.

    A device that tells neither power nor energy needs no waiting: nothing could be made of it.
    """
    power = _sensors(devices, ("power_w",))
    cool_down_s = _cool_down_s(_sensors(devices, _SETTLING), protocol.cool_down_max_s) if power else 0.0
    begin_s = time.perf_counter()
    if protocol.idle_s and _sensors(devices, _IDLE_POWER):
        time.sleep(protocol.idle_s)
        return Rest(begin_s, time.perf_counter(), cool_down_s)
    return Rest(begin_s, begin_s, cool_down_s)


def idle_with_context(device: Device, protocol: Protocol, recorder: Recorder) -> None:
    """Open the device's context and watch it idle, in a window `idle`; a device without contexts has none.

    A card with a context holds its clocks up, and on an H200 draws half as much again as without.
    """
    if protocol.idle_s and _sensors([device], _IDLE_POWER) and device.open_context():
        with recorder.window("idle", work=Work(), adaptive=False):
            time.sleep(protocol.idle_s)


def _cool_down_s(sensors: Sequence[Sensor], longest_s: float) -> float:
    """Return how long it took until no reading moved any more, `longest_s` if they never stopped or fell silent."""
    seen: list[list[float]] = [[] for _ in sensors]
    begin_s = time.perf_counter()
    while time.perf_counter() - begin_s < longest_s:
        try:
            for number, sensor in enumerate(sensors):
                seen[number] = [*seen[number], sensor.read()][-_LOOKS:]
        except SensorError:  # the driver has gone; the sampler says so in the record
            return longest_s
        if all(_at_rest(values) for values in seen):
            return time.perf_counter() - begin_s
        time.sleep(_LOOK_S)
    return longest_s


def _at_rest(values: Sequence[float]) -> bool:
    """Whether the last looks agree; a reading that has nothing to say (NaN) never does.

    >>> _at_rest([100.0] * 10), _at_rest([100.0] * 9 + [104.0]), _at_rest([100.0] * 3)
    (True, False, False)
    """
    return len(values) == _LOOKS and max(values) - min(values) <= _REST_SPREAD * statistics.fmean(values)


def _sensors(devices: Sequence[Device], names: Sequence[str]) -> list[Sensor]:
    """Open those of the sensors that the devices have."""
    found = []
    for device in devices:
        for name in names:
            with contextlib.suppress(SensorError):
                found.append(device.sensor(name, ()))
    return found
