"""What a sampler wrote down, and the file it writes: readable after a kill at any instant.

The file is made of lines. The first is the header (JSON: device, sensors, reasons for what is absent). Then

    3 8123.456789 120586240.0          reading of sensor 3 at this time
    ! {"sensor": 3, "reason": ...}     this sensor ended
    . {"at_s": 8130.1}                 the sampler was stopped in order

A last line without its line end is what a kill cut off, and is dropped. Times are of `time.perf_counter`, which on
Linux, macOS and Windows is one monotonic clock for all processes of the machine; the parent checks that when it
starts a sampler (`clock_offset_s`, `clock_error_s`) and takes the offset off the times if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from efficientllm.records.environment import DeviceInfo
from efficientllm.records.series import Series


class SensorHead(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor in the header."""

    name: str
    unit: str
    source: str
    cumulative: bool = False
    silence: str = ""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line.

    Attributes:
        device: what is watched.
        sensors: numbered by their place.
        absent: quantity -> why there is no sensor.
        at_s: when the sampler began.
        interval_s: the protocol's pause between two readings.
        processors: processor cores of the machine, for the sampler's own cost.
    """

    device: DeviceInfo
    sensors: tuple[SensorHead, ...]
    absent: dict[str, str]
    at_s: float
    interval_s: float
    processors: int


class _Ended(msgspec.Struct, frozen=True):
    sensor: int
    reason: str


class _Stopped(msgspec.Struct, frozen=True):
    at_s: float


@dataclass(frozen=True)
class Samples:
    """All that a sampler saw.

    Attributes:
        device: what was watched.
        series: quantity -> readings.
        absent: quantity -> why it is missing, or from when on.
        cumulative: quantities that only grow.
        begin_s, end_s: when the sampler began and ended; of a killed one, its last reading.
        interval_s: pause between two readings.
        processors: processor cores of the machine.
        ended: why the sampler ended before it was stopped, or empty.
        clock_offset_s, clock_error_s: the sampler's clock minus the parent's as seen at its start, and how exactly;
            an offset within the error counts as none and is not taken off.
    """

    device: DeviceInfo
    series: dict[str, Series]
    absent: dict[str, str]
    cumulative: frozenset[str] = frozenset()
    begin_s: float = 0.0
    end_s: float = 0.0
    interval_s: float = 0.05
    processors: int = 1
    ended: str = ""
    clock_offset_s: float = 0.0
    clock_error_s: float = 0.0

    @property
    def elapsed_s(self) -> float:
        """How long the sampler ran."""
        return self.end_s - self.begin_s

    @property
    def processor_s(self) -> float | None:
        """Processor seconds that the sampler itself used, None if it did not live to say so."""
        own = self.series.get("sampler_processor_s")
        return own.values[-1] if own else None

    def shifted(self, origin_s: float) -> Samples:
        """Return the same with `origin_s` (of `perf_counter`) as second 0."""
        moved = {
            name: msgspec.structs.replace(series, at_s=tuple(at_s - origin_s for at_s in series.at_s))
            for name, series in self.series.items()
        }
        return replace(self, series=moved, begin_s=self.begin_s - origin_s, end_s=self.end_s - origin_s)


def header_line(header: Header) -> bytes:
    """Write the first line."""
    return msgspec.json.encode(header) + b"\n"


def reading_line(sensor: int, at_s: float, value: float) -> bytes:
    r"""Write a reading.

    >>> reading_line(3, 8123.4567891, 2.5)
    b'3 8123.456789 2.5\n'
    """
    return f"{sensor} {at_s:.6f} {value!r}\n".encode("ascii")


def ended_line(sensor: int, reason: str) -> bytes:
    """Write that a sensor ended."""
    return b"! " + msgspec.json.encode(_Ended(sensor, reason)) + b"\n"


def stopped_line(at_s: float) -> bytes:
    """Write that the sampler was stopped in order."""
    return b". " + msgspec.json.encode(_Stopped(at_s)) + b"\n"


def read_samples(path: Path, *, rank: int = 0, index: int = 0, offset_s: float = 0.0) -> Samples:
    """Read a sampler's file, whole or cut off anywhere after its header.

    Args:
        path: the file.
        rank: rank of the watched process, written into the series.
        index: index of its device, written into the series.
        offset_s: the sampler's clock minus the reader's, taken off all times.

    Raises:
        ValueError: not even the header is whole.
    """
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is cut off, or empty
    if not lines:
        raise ValueError(f"{path} holds no whole header: the sampler was killed before it began")
    header = msgspec.json.decode(lines[0], type=Header)
    readings: list[tuple[list[float], list[float]]] = [([], []) for _ in header.sensors]
    ends: dict[int, str] = {}
    stopped_s: float | None = None
    for line in lines[1:]:
        if line.startswith(b"! "):
            end = msgspec.json.decode(line[2:], type=_Ended)
            ends[end.sensor] = end.reason
        elif line.startswith(b". "):
            stopped_s = msgspec.json.decode(line[2:], type=_Stopped).at_s - offset_s
        else:
            sensor, at_s, value = line.split()
            readings[int(sensor)][0].append(float(at_s) - offset_s)
            readings[int(sensor)][1].append(float(value))
    begin_s = header.at_s - offset_s
    last_s = max((at_s[-1] for at_s, _ in readings if at_s), default=begin_s)
    return Samples(
        device=header.device,
        series=_series(header, readings, rank, index),
        absent=header.absent | _silent(header, readings) | {header.sensors[n].name: why for n, why in ends.items()},
        cumulative=frozenset(sensor.name for sensor in header.sensors if sensor.cumulative),
        begin_s=begin_s,
        end_s=last_s if stopped_s is None else stopped_s,
        interval_s=header.interval_s,
        processors=header.processors,
        ended="" if stopped_s is not None else "the sampler ended before it was stopped",
    )


def _series(
    header: Header, readings: list[tuple[list[float], list[float]]], rank: int, index: int
) -> dict[str, Series]:
    return {
        head.name: Series(
            name=head.name,
            unit=head.unit,
            at_s=tuple(at_s),
            values=tuple(values),
            source=head.source,
            rank=rank,
            device=index,
        )
        for head, (at_s, values) in zip(header.sensors, readings, strict=True)
        if at_s
    }


def _silent(header: Header, readings: list[tuple[list[float], list[float]]]) -> dict[str, str]:
    """Return the reasons of sensors that never said anything."""
    return {
        head.name: head.silence or "its source never said anything"
        for head, (at_s, _) in zip(header.sensors, readings, strict=True)
        if not at_s
    }
