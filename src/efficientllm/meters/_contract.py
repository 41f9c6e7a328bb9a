"""What a meter is: a set of quantities that a sampler reads at an interval.

A new meter is one new file that ends with `ENTRY = MeterEntry(...)`; the sampler opens all meters of the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from efficientllm.devices._contract import Device, Sensor, SensorError

#: Opens a meter: (device, watched processes) -> (sensors, quantity -> why it is absent).
Open = Callable[[Device, Collection[int]], tuple[list[Sensor], dict[str, str]]]


@dataclass(frozen=True)
class MeterEntry:
    """A meter's entry.

    Attributes:
        title: what it watches, for people.
        quantities: names with their unit at the end; each comes back as a sensor or as a reason.
        interval_s: the shortest useful pause between two readings; the protocol's, where that is longer. 0 means the
            protocol's.
        open: opens it; `from_device(quantities)` where the device itself tells them.
    """

    title: str
    quantities: tuple[str, ...]
    interval_s: float
    open: Open


def from_device(*quantities: str) -> Open:
    """Return an `open` that asks the device for these quantities."""

    def open_on(device: Device, pids: Collection[int]) -> tuple[list[Sensor], dict[str, str]]:
        sensors: list[Sensor] = []
        absent: dict[str, str] = {}
        for quantity in quantities:
            try:
                sensors.append(device.sensor(quantity, pids))
            except SensorError as error:
                absent[quantity] = str(error)
        return sensors, absent

    return open_on
