"""The processor of this machine, with its memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from efficientllm.devices import cpu_sensors as said
from efficientllm.devices._contract import QUANTITIES, Device, DeviceEntry, Sensor, SensorError
from efficientllm.devices.cpu_facts import cpu_info
from efficientllm.devices.rapl import Rapl
from efficientllm.records.environment import DeviceInfo

if TYPE_CHECKING:
    import torch

_NOT_TOLD = {
    "power_w": "a processor has no power reading of its own; mean power comes from the energy counter, if any",
    "power_instant_w": "a processor has no power reading of its own",
    "memory_clock_hz": "the system does not tell the memory's clock",
    "busy_ratio": "derived from processor seconds (processor_s) over the window and the usable cores",
    "throttle_reasons": "a processor's system does not say why it slows down; see clock_hz",
    "num_foreign_processes": "a processor always runs other processes; foreign_busy_ratio tells their load",
}


class CpuDevice(Device):
    """The processor.

    Args:
        root: where /proc and /sys are; another folder stands for another machine.
    """

    kind = "cpu"

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def group(self, ranks: int) -> tuple[Device, ...]:
        """Return this processor: ranks share its cores."""
        return (self,)

    def info(self) -> DeviceInfo:
        """Return model, usable cores, memory and outermost cache."""
        return cpu_info(self._root)

    def sensor(self, quantity: str, pids: Collection[int]) -> Sensor:
        """Open a sensor; see the contract."""
        openers: dict[str, Callable[[Collection[int]], Sensor]] = {
            "energy_j": self._energy,
            "process_memory_bytes": self._process_memory,
            "device_memory_bytes": self._machine_memory,
            "processor_s": self._processor_seconds,
            "machine_processor_s": self._machine_seconds,
            "machine_stolen_s": self._stolen_seconds,
            "clock_hz": self._clock,
            "temperature_c": self._temperature,
        }
        if quantity not in openers:
            raise SensorError(_NOT_TOLD.get(quantity, f"a processor has no counter of {quantity}"))
        return openers[quantity](pids)

    def process_memory_bytes(self) -> float:
        """Return the anonymous resident bytes of the calling process."""
        return self.sensor("process_memory_bytes", (os.getpid(),)).read()

    def torch_device(self) -> torch.device:
        """Return torch's processor."""
        import torch

        return torch.device("cpu")

    def empty_cache(self) -> None:
        """Ask the C library to give freed memory back to the system, where it can (glibc)."""
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (AttributeError, OSError, TypeError):
            return  # another C library returns it by itself, or not at all

    def _energy(self, _pids: Collection[int]) -> Sensor:
        rapl = Rapl(self._root / "sys/class/powercap")
        return _sensor("energy_j", rapl.source(), rapl.read_j, cumulative=True)

    def _process_memory(self, pids: Collection[int]) -> Sensor:
        if "RssAnon:" in _text(self._root / "proc/self/status"):
            return _sensor("process_memory_bytes", "procfs.rss_anon", lambda: said.anonymous_bytes(pids, self._root))
        return _sensor("process_memory_bytes", "psutil.uss", lambda: said.unique_bytes(pids))

    def _machine_memory(self, _pids: Collection[int]) -> Sensor:
        return _sensor("device_memory_bytes", "total - available", lambda: said.used_machine_bytes(self._root))

    def _processor_seconds(self, pids: Collection[int]) -> Sensor:
        source, clock = said.process_clock()
        return _sensor("processor_s", source, said.ProcessorSeconds(pids, clock).read, cumulative=True)

    def _machine_seconds(self, _pids: Collection[int]) -> Sensor:
        said.machine_seconds(self._root)
        return _sensor(
            "machine_processor_s", "procfs.stat", lambda: said.machine_seconds(self._root)[0], cumulative=True
        )

    def _stolen_seconds(self, _pids: Collection[int]) -> Sensor:
        said.machine_seconds(self._root)
        return _sensor("machine_stolen_s", "procfs.stat", lambda: said.machine_seconds(self._root)[1], cumulative=True)

    def _clock(self, _pids: Collection[int]) -> Sensor:
        return _sensor("clock_hz", "sysfs.cpufreq", said.clock_reader(self._root))

    def _temperature(self, _pids: Collection[int]) -> Sensor:
        return _sensor("temperature_c", "sysfs.hwmon", said.temperature_reader(self._root))


def _sensor(name: str, source: str, read: Callable[[], float], *, cumulative: bool = False) -> Sensor:
    return Sensor(
        name=name,
        unit=QUANTITIES[name],
        source=source,
        read=read,
        cumulative=cumulative,
        silence="the watched process was gone before the first reading",
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


ENTRY = DeviceEntry(title="the processor", open=lambda address: CpuDevice(), why_not=lambda: "")
