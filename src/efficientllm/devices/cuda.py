"""An NVIDIA card, or a MIG slice of one, through NVML and torch's CUDA."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from efficientllm.devices import cuda_sensors
from efficientllm.devices._contract import Device, DeviceEntry, Sensor, SensorError
from efficientllm.devices.gpm import METRICS, Gpm
from efficientllm.devices.nvml import Nvml
from efficientllm.devices.peaks import datasheet
from efficientllm.devices.visibility import visible_uuids
from efficientllm.errors import Unsupported, UserError
from efficientllm.records.environment import DeviceInfo

if TYPE_CHECKING:
    import torch

#: compute capability -> CUDA cores a multiprocessor (CUDA C++ Programming Guide, "Compute Capabilities").
_CORES_PER_SM = {(7, 0): 64, (7, 5): 64, (8, 0): 64, (8, 6): 128, (8, 7): 128, (8, 9): 128, (9, 0): 128}
_CORES_PER_SM |= {(10, 0): 128, (10, 3): 128, (12, 0): 128, (12, 1): 128}


class CudaDevice(Device):
    """One device by its UUID, which holds whatever CUDA_VISIBLE_DEVICES does to its number.

    Args:
        uuid: the driver's UUID, of a card (`GPU-…`) or of a slice (`MIG-…`).
        nvml: the session; a new one if None.

    Raises:
        SensorError: the driver does not answer or does not know the device.
    """

    kind = "cuda"

    def __init__(self, uuid: str, nvml: Nvml | None = None) -> None:
        self.address = uuid
        nvml = nvml or Nvml()
        device = nvml.handle(uuid)
        is_slice = uuid.startswith("MIG-")
        self._on = cuda_sensors.CudaHandles(
            nvml=nvml,
            device=device,
            card=nvml.ask("MIG slice", "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", device) if is_slice else device,
            gpu_instance=int(nvml.ask("MIG slice", "nvmlDeviceGetGpuInstanceId", device)) if is_slice else None,
            name=str(nvml.ask("name", "nvmlDeviceGetName", device)),
        )
        self._gpm: Gpm | None = None

    def info(self) -> DeviceInfo:
        """Return name, UUID, driver, memory, enforced power limit, multiprocessors and cache (by the datasheet)."""
        peaks = datasheet(self._on.name)
        return DeviceInfo(
            kind="cuda",
            name=self._on.name,
            uuid=self.address,
            driver=str(self._on.ask("driver", "nvmlSystemGetDriverVersion")),
            capacity_bytes=int(cuda_sensors.memory_info(self._on).total),
            power_cap_w=self._power_cap_w(),
            cores=self._multiprocessors(),
            last_level_cache_bytes=peaks.cache_bytes if peaks else 0,
        )

    def sensor(self, quantity: str, pids: Collection[int]) -> Sensor:
        """Open a sensor; see the contract."""
        if quantity in METRICS:
            return cuda_sensors.activity(self._on, self._open_gpm(), quantity)
        if quantity not in cuda_sensors.OPENERS:
            raise SensorError(f"an NVIDIA device does not tell {quantity}; it belongs to the processor")
        return cuda_sensors.OPENERS[quantity](self._on, pids)

    def foreign_pids(self, own: Collection[int]) -> list[int]:
        """Return other processes on the device.

        Raises:
            SensorError: the driver's process ids cannot be told from ours.
        """
        foreign = cuda_sensors.foreign_pids(self._on, own)
        if foreign is None:
            raise SensorError("foreign processes: the driver lists process ids that do not exist in this container")
        return foreign

    def process_memory_bytes(self) -> float:
        """Return what the driver says the calling process holds, its context included."""
        held = self.sensor("process_memory_bytes", (os.getpid(),))
        value = held.read()
        if value != value:
            raise SensorError(f"process memory: {held.silence}")
        return value

    def torch_device(self) -> torch.device:
        """Return torch's device with this UUID.

        Raises:
            UserError: torch cannot use CUDA, or CUDA_VISIBLE_DEVICES hides this device from it.
        """
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                f"device {self._on.name} is here, but torch {torch.__version__} cannot use it. "
                f"Install a CUDA build of torch that fits driver {self.info().driver}, or use device: cpu."
            )
        seen = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(torch.cuda.device_count())]
        if self.address in seen:
            return torch.device("cuda", seen.index(self.address))
        expected = visible_here(self._on.nvml)
        if self._on.gpu_instance is not None and self.address in expected:
            return torch.device("cuda", expected.index(self.address))  # torch names a slice's card, not the slice
        raise UserError(
            f"device {self.address} is hidden from torch, which sees {', '.join(seen) or 'none'}. "
            f"Mend CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}."
        )

    def open_context(self) -> bool:
        """Open the CUDA context."""
        import torch

        torch.zeros(1, device=self._torch())
        self.synchronize()
        return True

    def group(self, ranks: int) -> tuple[Device, ...]:
        """Return the visible devices, in CUDA's order, of which each rank takes its own.

        Raises:
            Unsupported: there are fewer, or this is not the first of them, so that "the others" is not clear.
        """
        if ranks == 1:
            return (self,)
        visible = visible_here(self._on.nvml)
        if ranks > len(visible):
            raise Unsupported(f"ranks {ranks}, but this machine has {len(visible)} cuda device(s)")
        if self.address != visible[0]:
            raise Unsupported(
                f"ranks {ranks} take the visible devices in their order, and device cuda:{visible.index(self.address)} "
                "is not the first. Use device: cuda, and CUDA_VISIBLE_DEVICES to choose them."
            )
        return (self, *(CudaDevice(uuid, self._on.nvml) for uuid in visible[1:ranks]))

    def all_of_kind(self) -> tuple[Device, ...]:
        """Return the visible devices."""
        return self.group(len(visible_here(self._on.nvml)))

    def peers(self) -> list[torch.device]:
        """Return the other cards that torch sees; a slice has no links of its own."""
        import torch

        if self._on.gpu_instance is not None:
            return []
        others = range(torch.cuda.device_count())
        return [torch.device("cuda", number) for number in others if number != self._torch().index]

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        import torch

        torch.cuda.synchronize(self._torch())

    def reset_peak_memory(self) -> None:
        """Start the allocator's peaks anew."""
        import torch

        torch.cuda.reset_peak_memory_stats(self._torch())

    def allocator_figures(self) -> dict[str, float]:
        """Return torch's peaks since the last reset: what tensors held, and what the allocator held for them."""
        import torch

        return {
            "allocated_peak_bytes": float(torch.cuda.max_memory_allocated(self._torch())),
            "reserved_peak_bytes": float(torch.cuda.max_memory_reserved(self._torch())),
        }

    def allocated_bytes(self) -> float | None:
        """Return what tensors hold now."""
        import torch

        return float(torch.cuda.memory_allocated(self._torch()))

    def empty_cache(self) -> None:
        """Give the allocator's unused memory back to the device."""
        import torch

        torch.cuda.empty_cache()

    _torch_device: torch.device | None = None

    def _torch(self) -> torch.device:
        if self._torch_device is None:
            self._torch_device = self.torch_device()
        return self._torch_device

    def _open_gpm(self) -> Gpm:
        if self._gpm is None:
            self._gpm = Gpm(self._on.nvml, self._on.card, self._on.gpu_instance)
        return self._gpm

    def _power_cap_w(self) -> float | None:
        try:
            return float(self._on.ask("power limit", "nvmlDeviceGetEnforcedPowerLimit", self._on.card)) / 1e3
        except SensorError:
            return None

    def _multiprocessors(self) -> int:
        try:
            if self._on.gpu_instance is not None:
                return int(self._on.ask("slice", "nvmlDeviceGetAttributes_v2", self._on.device).multiprocessorCount)
            capability = tuple(self._on.ask("capability", "nvmlDeviceGetCudaComputeCapability", self._on.card))
            cores = int(self._on.ask("cores", "nvmlDeviceGetNumGpuCores", self._on.card))
        except SensorError:
            return 0
        return cores // _CORES_PER_SM[capability] if capability in _CORES_PER_SM else 0


def visible_here(nvml: Nvml) -> list[str]:
    """Return the UUIDs that a CUDA program in this environment sees, in its order."""
    return visible_uuids(nvml.cards(), os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"))


def open_cuda(address: str, nvml: Nvml | None = None) -> CudaDevice:
    """Open a device.

    Args:
        address: a UUID; or the number that torch gives it (`1` for `cuda:1`); or empty for the first.
        nvml: the session; a new one if None.

    Raises:
        UserError: there is no such device; the message names those there are.
    """
    try:
        nvml = nvml or Nvml()
        if address and not address.isdecimal():
            return CudaDevice(address, nvml)
        visible, number = visible_here(nvml), int(address or 0)
        if number < len(visible):
            return CudaDevice(visible[number], nvml)
    except SensorError as error:
        raise UserError(f"device cuda cannot be opened: {error}. Use device: cpu.") from error
    raise UserError(
        f"device cuda:{number} is not visible here: {_why_hidden(nvml, visible)}. Use device: cpu, or mend that."
    )


def why_not(nvml: Nvml | None = None) -> str:
    """Return why no NVIDIA device can be opened here, or an empty string. Costs no torch."""
    try:
        nvml = nvml or Nvml()
        visible = visible_here(nvml)
    except SensorError as error:
        return str(error)
    return "" if visible else _why_hidden(nvml, visible)


def _why_hidden(nvml: Nvml, visible: list[str]) -> str:
    cards, variable = nvml.cards(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not cards:
        return "the NVIDIA driver lists no card"
    if variable is not None:
        return f"CUDA_VISIBLE_DEVICES={variable!r} leaves {len(visible)} of {len(cards)} card(s)"
    if all(card.mig and not card.slices for card in cards):
        return "every card is in MIG mode and has no slice"
    return f"there are {len(visible)}"


ENTRY = DeviceEntry(title="an NVIDIA card or MIG slice", open=open_cuda, why_not=why_not, accelerator=True)
