"""A device that replays a script, so that every meter is tested with no accelerator."""

from __future__ import annotations

import bisect
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientllm.devices._contract import QUANTITIES, Device, DeviceEntry, Sensor, SensorError
from efficientllm.errors import Unsupported, UserError
from efficientllm.records.environment import DeviceInfo

if TYPE_CHECKING:
    import torch

Script = Mapping[str, Any]


class FakeDevice(Device):
    """Replays readings over time.

    The script, a JSON-able mapping; every key may be left out:

        info:     fields of DeviceInfo
        sensors:  quantity -> track:
                    points:         [[at_s, value], ...]; or `value`, a function of the seconds (in Python only)
                    linear:         true joins the points by lines, else each value holds until the next
                    update_every_s: the value moves only at multiples of this, as a driver's counter does
                    fails_at_s:     from then on reading raises, `fails_with` says why (a vanishing driver)
                    cumulative, source, silence: as in `Sensor`
        absent:   quantity -> reason
        others:   paths of the scripts of further devices, for further ranks
        foreign:  [[at_s, [pid, ...]], ...], processes of others on the device
        origin_s: perf_counter at the script's second 0; else the moment the device is opened

    Args:
        script: the script, or the path of its file.
        clock: seconds now; a test gives its own.
    """

    kind = "fake"

    def __init__(self, script: Script | str = "", clock: Callable[[], float] = time.perf_counter) -> None:
        self.address = script if isinstance(script, str) else ""
        self._script = _load(script) if isinstance(script, str) else script
        self._clock = clock
        self._origin_s = float(self._script.get("origin_s", clock()))
        self._held_bytes = 0.0
        self._peak_bytes = 0.0

    def info(self) -> DeviceInfo:
        """Return the scripted identity."""
        return DeviceInfo(
            **{"kind": "fake", "name": "fake", "uuid": "fake-0", "cores": 1, **self._script.get("info", {})}
        )

    def sensor(self, quantity: str, pids: Collection[int]) -> Sensor:
        """Open a scripted sensor; see the contract."""
        track = self._script.get("sensors", {}).get(quantity)
        if track is None:
            raise SensorError(self._script.get("absent", {}).get(quantity, f"the script does not tell {quantity}"))
        return Sensor(
            name=quantity,
            unit=QUANTITIES.get(quantity, quantity.rpartition("_")[2]),
            source=track.get("source", "script"),
            read=lambda: _value(track, self._clock() - self._origin_s),
            cumulative=bool(track.get("cumulative", False)),
            silence=track.get("silence", "the script says nothing"),
        )

    def foreign_pids(self, own: Collection[int]) -> list[int]:
        """Return the scripted processes of others."""
        steps = [step for step in self._script.get("foreign", ()) if step[0] <= self._clock() - self._origin_s]
        return [pid for pid in steps[-1][1] if pid not in own] if steps else []

    def torch_device(self) -> torch.device:
        """Return torch's processor: a fake device computes there."""
        import torch

        return torch.device("cpu")

    def group(self, ranks: int) -> tuple[Device, ...]:
        """Return this device and the scripted others.

        Raises:
            Unsupported: the script has fewer.
        """
        devices = (self, *(FakeDevice(path) for path in self._script.get("others", ())))
        if ranks > len(devices):
            raise Unsupported(f"ranks {ranks}, but this machine has {len(devices)} fake device(s)")
        return devices[:ranks]

    def open_context(self) -> bool:
        """Do as an accelerator does: there is a context."""
        return True

    def allocate(self, num_bytes: float) -> None:
        """Take memory of the fake device; negative gives it back.

        Raises:
            OutOfMemoryError: more than its capacity would be held.
        """
        if self._held_bytes + num_bytes > self.info().capacity_bytes:
            raise OutOfMemoryError(f"fake device: out of memory taking {num_bytes:.0f} bytes")
        self._held_bytes += num_bytes
        self._peak_bytes = max(self._peak_bytes, self._held_bytes)

    def process_memory_bytes(self) -> float:
        """Return what `allocate` holds."""
        return self._held_bytes

    def reset_peak_memory(self) -> None:
        """Start the peak anew from what is held."""
        self._peak_bytes = self._held_bytes

    def allocator_figures(self) -> dict[str, float]:
        """Return the peak of `allocate` twice, as allocated and as reserved."""
        return {"allocated_peak_bytes": self._peak_bytes, "reserved_peak_bytes": self._peak_bytes}


class OutOfMemoryError(RuntimeError):
    """The fake device's memory ran out; named as torch names its own."""


def _load(path: str) -> Script:
    if not path:
        return {}
    try:
        script = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"fake device: script {path!r} cannot be read: {error}. Give a JSON file.") from error
    if not isinstance(script, dict):
        raise UserError(f"fake device: script {path!r} is no mapping. See devices/fake.py for its keys.")
    return script


def _value(track: Script, at_s: float) -> float:
    if at_s >= track.get("fails_at_s", math.inf):
        raise SensorError(track.get("fails_with", "the driver vanished"))
    every_s = track.get("update_every_s", 0.0)
    if every_s:
        at_s = math.floor(at_s / every_s + 1e-9) * every_s
    if "value" in track:
        return float(track["value"](at_s))
    return _on_points(track["points"], at_s, linear=bool(track.get("linear", False)))


def _on_points(points: list[list[float]], at_s: float, *, linear: bool) -> float:
    """Return the value at a time: NaN before the first point, the last value after the last.

    >>> _on_points([[0, 10], [2, 20]], 1.0, linear=True), _on_points([[0, 10], [2, 20]], 1.0, linear=False)
    (15.0, 10.0)
    """
    after = bisect.bisect_right([point[0] for point in points], at_s)
    if after == 0:
        return math.nan
    begin_s, value = points[after - 1]
    if not linear or after == len(points):
        return float(value)
    end_s, end_value = points[after]
    return float(value + (end_value - value) * (at_s - begin_s) / (end_s - begin_s))


ENTRY = DeviceEntry(title="a device that replays a script", open=FakeDevice, why_not=lambda: "")
