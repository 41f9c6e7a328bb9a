"""What a device is: its name, its sensors (torch-free) and its face towards torch.

    quantity ──► Device.sensor(quantity, pids) ──► Sensor.read() ──► number in the base unit
                        └── SensorError: the reason why it is absent, a sentence for the user

The hardware half never imports torch, so that the sampler's process stays light; the torch half imports it inside
its methods. A new device is one new file that ends with `ENTRY = DeviceEntry(...)`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efficientllm.errors import EfficientLLMError, Unsupported
from efficientllm.records.environment import DeviceInfo

if TYPE_CHECKING:
    import torch

#: What a device may tell -> its base unit. Every device answers each of them, with a sensor or with a reason.
QUANTITIES = {
    "energy_j": "j",  # cumulative
    "power_w": "w",  # as the driver's main reading has it, often a trailing average
    "power_instant_w": "w",
    "process_memory_bytes": "bytes",  # held on the device by the watched processes
    "device_memory_bytes": "bytes",  # held on the device by anybody
    "busy_ratio": "ratio",  # share of time in which something ran; comparison only
    "processor_s": "s",  # cumulative processor seconds of the watched processes
    "machine_processor_s": "s",  # cumulative processor seconds of everybody
    "machine_stolen_s": "s",  # cumulative seconds that a hypervisor gave to somebody else
    "sm_activity_ratio": "ratio",
    "tensor_activity_ratio": "ratio",
    "dram_activity_ratio": "ratio",
    "clock_hz": "hz",
    "memory_clock_hz": "hz",
    "temperature_c": "c",
    "throttle_reasons": "bits",  # bits of THROTTLE_BITS
    "num_foreign_processes": "count",
}

#: Bits of `throttle_reasons`, numbered as NVML numbers them. Idle and user-set clocks are no throttling.
THROTTLE_BITS = {
    "power_cap": 0x4,
    "hardware_slowdown": 0x8,
    "software_thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
}

#: Texts by which torch's allocators and CUDA's libraries say that memory ran out.
_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class SensorError(EfficientLLMError):
    """A quantity cannot be read, from the start or from now on; `str()` of it is the reason a user reads."""


@dataclass(frozen=True)
class Sensor:
    """One source of one quantity.

    Attributes:
        name: quantity with its unit at the end.
        unit: base unit.
        source: what is read, for example `nvml.total_energy (scope: gpu)`.
        read: gives the present value; NaN means "nothing to say just now"; raises `SensorError` when it is gone.
        cumulative: whether the value only grows, so that a window's figure is a difference.
        silence: the reason to give when it never said anything.
    """

    name: str
    unit: str
    source: str
    read: Callable[[], float]
    cumulative: bool = False
    silence: str = ""


class Device(ABC):
    """A device to measure on.

    Attributes:
        kind: the entry's name, recorded as `DeviceInfo.kind`.
        address: with what another process opens the very same device (a UUID, a script's path).
    """

    kind: str = ""
    address: str = ""

    # the hardware face: no torch -------------------------------------------------------------------------------

    @abstractmethod
    def info(self) -> DeviceInfo:
        """Return the device's identity and capacity; the same in every process."""

    @abstractmethod
    def sensor(self, quantity: str, pids: Collection[int]) -> Sensor:
        """Open the sensor of one quantity.

        Args:
            quantity: a name of `QUANTITIES`.
            pids: the watched processes; a live collection: one added later is watched from then on.

        Raises:
            SensorError: this device cannot tell the quantity; the message says why.
        """

    def sensors(self, pids: Collection[int]) -> list[Sensor]:
        """Open every sensor that this device has."""
        return [sensor for sensor in self._open_all(pids).values() if isinstance(sensor, Sensor)]

    def absent(self) -> dict[str, str]:
        """Return quantity -> reason, for all that this device cannot tell."""
        return {name: why for name, why in self._open_all((os.getpid(),)).items() if isinstance(why, str)}

    def foreign_pids(self, own: Collection[int]) -> list[int]:
        """Return processes on the device that are not ours; empty where a device is always shared, as a CPU is."""
        return []

    def _open_all(self, pids: Collection[int]) -> dict[str, Sensor | str]:
        opened: dict[str, Sensor | str] = {}
        for quantity in QUANTITIES:
            try:
                opened[quantity] = self.sensor(quantity, pids)
            except SensorError as error:
                opened[quantity] = str(error)
        return opened

    # the torch face: torch is imported inside ------------------------------------------------------------------

    @abstractmethod
    def torch_device(self) -> torch.device:
        """Return the device as torch names it in this process."""

    @abstractmethod
    def process_memory_bytes(self) -> float:
        """Return what the calling process holds on the device now.

        Raises:
            SensorError: the driver does not tell it.
        """

    def open_context(self) -> bool:
        """Open what every later call would open anyway; False where there is no such thing, as on a processor."""
        return False

    def group(self, ranks: int) -> tuple[Device, ...]:
        """Return what so many ranks run on: a device for each, this one first; or this one, which all share.

        Raises:
            Unsupported: there are fewer devices.
        """
        if ranks == 1:
            return (self,)
        raise Unsupported(f"ranks {ranks}, but device {self.kind} knows of no other one like it")

    def all_of_kind(self) -> tuple[Device, ...]:
        """Return all devices that ranks could run on here, this one first."""
        return (self,)

    def peers(self) -> list[torch.device]:
        """Return other devices of this kind that this process can copy to, for the bandwidth of the links."""
        return []

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        return

    def reset_peak_memory(self) -> None:
        """Start the allocator's peaks anew."""
        return

    def allocator_figures(self) -> dict[str, float]:
        """Return `allocated_peak_bytes` and `reserved_peak_bytes` since the last reset; empty where none is kept."""
        return {}

    def allocated_bytes(self) -> float | None:
        """Return what tensors hold on the device now, as torch's allocator counts it; None where it does not count."""
        return None

    def empty_cache(self) -> None:
        """Give unused memory back to the device."""
        return

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception says that memory ran out.

        Judged by type name and text, since torch raises several kinds and this must not import it.
        """
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_TEXTS)


@dataclass(frozen=True)
class DeviceEntry:
    """A device's entry.

    Attributes:
        title: what it is, for people.
        open: opens the device at an address; an empty address is the first one.
        why_not: the reason why no such device can be opened here, or an empty string; cheap and torch-free.
        accelerator: whether `auto` prefers it to the CPU.
    """

    title: str
    open: Callable[[str], Device]
    why_not: Callable[[], str]
    accelerator: bool = False
