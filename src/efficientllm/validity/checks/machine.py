"""One machine is one machine: its facts agree in all records, and its sensors are those of its kind."""

from __future__ import annotations

import re
from collections.abc import Iterator

from efficientllm.records.environment import DeviceInfo
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.submission import Submission

#: Beginnings of sources that only a graphics card's driver gives, and that only an operating system does.
_OF_A_DRIVER, _OF_A_SYSTEM = ("nvml.",), ("procfs.rss", "linux.process")
_OVER_CORES = re.compile(r" over (\d+) cores$")


def _look(submission: Submission) -> Iterator[Fault]:
    devices: dict[str, DeviceInfo] = {}
    calibrations: dict[str, Ceilings] = {}
    for record in submission.records:
        measurement = record.measurement
        yield from _devices(record.name, measurement, devices)
        yield from _sensors(record.name, measurement)
        ceilings = measurement.ceilings
        if ceilings is not None and ceilings.calibration:
            first = calibrations.setdefault(ceilings.calibration, ceilings)
            if first != ceilings:
                why = f"its ceilings are not those that other records have of calibration {ceilings.calibration}"
                yield Fault(where=record.name, why=why)


def _devices(where: str, measurement: Measurement, known: dict[str, DeviceInfo]) -> Iterator[Fault]:
    trial, environment = measurement.trial, measurement.environment
    for device in environment.devices:
        if device.kind != trial.device:
            yield Fault(
                where=where, why=f"its trial is for {trial.device}, its device {device.name!r} is {device.kind}"
            )
        first = known.setdefault(device.uuid, device)
        if (first.name, first.kind, first.capacity_bytes) != (device.name, device.kind, device.capacity_bytes):
            why = f"device {device.uuid} is {device.name!r} here and {first.name!r} in another record"
            yield Fault(where=where, why=f"{why}, or of another size")


def _sensors(where: str, measurement: Measurement) -> Iterator[Fault]:
    devices = measurement.environment.devices
    kinds, cores = {device.kind for device in devices}, {device.cores for device in devices}
    strange = {"cpu": _OF_A_DRIVER, "cuda": _OF_A_SYSTEM}.get(next(iter(kinds), ""), ())
    for window in measurement.windows:
        for series in window.series:
            if len(kinds) == 1 and series.source.startswith(strange or ("\0",)):
                why = f"{series.name} was read from {series.source}, which no {next(iter(kinds))} device has"
                yield Fault(where=f"{where}: {window.label()}", why=why)
            over = _OVER_CORES.search(series.source)
            if over and int(over[1]) not in cores:
                why = f"{series.name} is a share of {over[1]} cores, the device has {max(cores, default=0)}"
                yield Fault(where=f"{where}: {window.label()}", why=why)


ENTRY = CheckEntry(title="each machine is the same in all records", order=30, look=_look)
