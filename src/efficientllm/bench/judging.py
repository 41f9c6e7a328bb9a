"""Holds a measurement to physics, with the datasheet of the device that it was made on."""

from __future__ import annotations

from efficientllm.devices._contract import Device
from efficientllm.devices.peaks import datasheet
from efficientllm.physics.finding import Datasheet
from efficientllm.physics.judge import judge
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.measurement import Measurement


def judged(measurement: Measurement, device: Device) -> Measurement:
    """Return the measurement with its cautions, or as `invalid` where it holds what cannot be."""
    return judge(measurement, datasheet_of(device))


def datasheet_of(device: Device) -> Datasheet | None:
    """Return what the maker promises of the device, in the form that physics takes; None if it is not known."""
    return datasheet_by_info(device.info())


def datasheet_by_info(info: DeviceInfo) -> Datasheet | None:
    """Return what the maker promises of a device that need not be here; None if it is not known."""
    peaks = datasheet(info.name)
    if peaks is None:
        return None
    return Datasheet(
        flop_per_s=peaks.flop_per_s,
        bytes_per_s=peaks.memory_bytes_per_s,
        boost_clock_hz=peaks.boost_clock_hz,
        capacity_bytes=info.capacity_bytes,
    )
