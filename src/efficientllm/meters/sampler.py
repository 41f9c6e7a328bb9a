"""The sampler: a process of its own that reads all meters of a device while something else runs.

    parent                      sampler (python -m efficientllm.meters.sampler '{...}')
    start ── pids ────────────► open the device and its meters, write the header
          ◄── ready ───────────
          ── clock ───────────► perf_counter, so that the parent sees that both read one clock
          ── pid 123 ─────────► one more process to watch
          ── stop ────────────► a last reading, the end line
    (dies) ─ end of input ────► the same: no sampler outlives its parent

Imports neither torch nor numpy. A sensor that fails for three readings ends with its reason, the others go on.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from efficientllm import catalog, registry
from efficientllm.devices._contract import Device, Sensor
from efficientllm.devices.choose import open_device
from efficientllm.meters import samples
from efficientllm.meters._contract import MeterEntry

_FAILURES_TO_END = 3
_OWN_INTERVAL_S = 1.0
_TICK, _STOP = "tick", "stop"


class SamplerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a sampler is asked to do: the argument of its command line.

    Attributes:
        device, address: which device, as `devices.choose.open_device` takes them.
        pids: the processes to watch.
        interval_s: the protocol's pause between two readings.
        path: the file to write.
        meters: names or files of meters; empty means all of the folder.
    """

    device: str
    path: str
    address: str = ""
    pids: tuple[int, ...] = ()
    interval_s: float = 0.05
    meters: tuple[str, ...] = ()


@dataclass
class _Channel:
    """A sensor with its number in the file and the readings it missed in a row."""

    number: int
    sensor: Sensor
    failures: int = 0
    ended: bool = False


@dataclass
class _Group:
    """Sensors that are read together."""

    interval_s: float
    channels: list[_Channel]
    due_s: float


class Sampler:
    """Reads sensors on their intervals and appends what they say to a file.

    Args:
        device: what is watched.
        pids: the watched processes; `watch` adds to them.
        out: the file, unbuffered, so that each tick is one write.
        interval_s: the protocol's pause between two readings.
        meters: names or files of meters.
        clock: seconds now.
    """

    def __init__(
        self,
        device: Device,
        pids: Sequence[int],
        out: BinaryIO,
        interval_s: float,
        meters: Sequence[str],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pids, self._out, self._clock = set(pids), out, clock
        self._groups: list[_Group] = []
        self._begin_s = clock()
        absent: dict[str, str] = {}
        for name in meters:
            entry: MeterEntry = registry.load("meter", name)
            sensors, reasons = entry.open(device, self._pids)
            absent |= reasons
            self._add(sensors, max(entry.interval_s, interval_s))
        self._add([_own_cost()], _OWN_INTERVAL_S)
        self._write_header(device, absent, interval_s)

    def watch(self, pid: int) -> None:
        """Watch one more process from now on."""
        self._pids.add(pid)

    def tick(self, *, everything: bool = False) -> float:
        """Read what is due (or everything), append it in one write, and return the seconds until the next is due."""
        lines: list[bytes] = []
        for group in self._groups:
            now_s = self._clock()
            if everything or now_s >= group.due_s:
                lines += [line for channel in group.channels for line in self._read(channel)]
                missed = math.floor((now_s - self._begin_s) / group.interval_s)  # keep to the grid, never catch up
                group.due_s = self._begin_s + (missed + 1) * group.interval_s
        if lines:
            self._out.write(b"".join(lines))
        return max(0.0, min(group.due_s for group in self._groups) - self._clock())

    def finish(self) -> None:
        """Read everything once more and write the end line."""
        self.tick(everything=True)
        self._out.write(samples.stopped_line(self._clock()))

    def _read(self, channel: _Channel) -> list[bytes]:
        if channel.ended:
            return []
        begin_s = self._clock()
        try:
            value = channel.sensor.read()
        except Exception as error:  # noqa: BLE001 - a user's own meter may raise anything, and must not end the others
            return self._failed(channel, error)
        channel.failures = 0
        if math.isnan(value):
            return []  # nothing to say just now
        return [samples.reading_line(channel.number, (begin_s + self._clock()) / 2, float(value))]

    def _failed(self, channel: _Channel, error: Exception) -> list[bytes]:
        channel.failures += 1
        if channel.failures < _FAILURES_TO_END:
            return []
        channel.ended = True
        return [samples.ended_line(channel.number, f"ended {self._clock() - self._begin_s:.1f} s in: {error}")]

    def _add(self, sensors: Sequence[Sensor], interval_s: float) -> None:
        first = sum(len(group.channels) for group in self._groups)
        channels = [_Channel(first + place, sensor) for place, sensor in enumerate(sensors)]
        self._groups.append(_Group(interval_s, channels, self._begin_s))

    def _write_header(self, device: Device, absent: dict[str, str], interval_s: float) -> None:
        heads = (
            samples.SensorHead(name=s.name, unit=s.unit, source=s.source, cumulative=s.cumulative, silence=s.silence)
            for s in (channel.sensor for group in self._groups for channel in group.channels)
        )
        header = samples.Header(
            device=device.info(),
            sensors=tuple(heads),
            absent=absent,
            at_s=self._begin_s,
            interval_s=interval_s,
            processors=os.cpu_count() or 1,
        )
        self._out.write(samples.header_line(header))


def serve(sampler: Sampler, commands: queue.Queue[str], say: Callable[[str], None]) -> None:
    """Sample until the parent says `stop`, ends its end of the pipe, or is gone."""
    parent = os.getppid()
    word = _TICK
    while word != _STOP and os.getppid() == parent:
        wait_s = sampler.tick()
        try:
            word, _, argument = commands.get(timeout=wait_s).partition(" ")
        except queue.Empty:
            continue
        if word == "clock":
            say(repr(time.perf_counter()))
        elif word == "pid":
            sampler.watch(int(argument))
    sampler.finish()


def main() -> None:
    """Open what the request names, then serve the parent that holds the other end of standard input."""
    request = msgspec.json.decode(sys.argv[1], type=SamplerRequest)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this one too
    with open(request.path, "wb", buffering=0) as out:
        device = open_device(request.device, request.address)
        meters = request.meters or tuple(catalog.names("meter"))
        sampler = Sampler(device, request.pids, out, request.interval_s, meters)
        sampler.tick()
        _say("ready")
        serve(sampler, _commands(), _say)


def _commands() -> queue.Queue[str]:
    """Return a queue of the parent's lines; the end of input, which comes with the parent's end, is a `stop`."""
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        # unbuffered: a thread that waits in sys.stdin's buffer holds a lock that Python wants when it exits
        with open(0, "rb", buffering=0, closefd=False) as pipe:
            for line in pipe:
                lines.put(line.decode("ascii").strip())
        lines.put(_STOP)

    threading.Thread(target=listen, daemon=True).start()
    return lines


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _own_cost() -> Sensor:
    return Sensor("sampler_processor_s", "s", "process_time", time.process_time, cumulative=True)


if __name__ == "__main__":
    main()
