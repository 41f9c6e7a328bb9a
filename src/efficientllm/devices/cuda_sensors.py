"""The sensors of an NVIDIA device, over NVML: one function a quantity."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from efficientllm.devices._contract import QUANTITIES, Sensor, SensorError
from efficientllm.devices.gpm import METRICS, Gpm
from efficientllm.devices.nvml import Nvml

_PIDS_HIDDEN = (
    "the driver lists none of our process ids on this device, as in containers with process ids of their own; "
    "device_memory_bytes tells what everybody holds"
)
_WHOLE_CARD_ONLY = "this is a MIG slice, and the driver tells {} of the whole card only"


@dataclass(frozen=True)
class CudaHandles:
    """The driver's handles of one device.

    Attributes:
        device: what programs run on: a card, or a MIG slice.
        card: the whole card.
        gpu_instance: the slice's number on its card, None for a whole card.
        name: the device's name.
    """

    nvml: Nvml
    device: Any
    card: Any
    gpu_instance: int | None
    name: str

    def ask(self, what: str, function: str, *arguments: Any) -> Any:
        """Ask the driver; see `Nvml.ask`."""
        return self.nvml.ask(what, function, *arguments)


def energy(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the card's total-energy counter (millijoules since the driver was loaded)."""
    _refuse_slice(on, "energy")
    return _opened(
        "energy_j",
        f"nvml.total_energy (scope: {_scope(on.name)})",
        lambda: on.ask("energy counter", "nvmlDeviceGetTotalEnergyConsumption", on.card) / 1e3,
        cumulative=True,
    )


def power(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the main power reading, on most cards a trailing average."""
    _refuse_slice(on, "power")
    scope = "gpu" if _scope(on.name) == "gpu" else "not told"
    return _opened(
        "power_w",
        f"nvml.power_usage, trailing average (scope: {scope})",
        lambda: on.ask("power", "nvmlDeviceGetPowerUsage", on.card) / 1e3,
    )


def power_instant(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the present power, a field that newer drivers have."""
    _refuse_slice(on, "power")
    library = on.nvml.library
    field = (library.NVML_FI_DEV_POWER_INSTANT, 0)  # 0: the scope "gpu"

    def read() -> float:
        value = on.ask("present power", "nvmlDeviceGetFieldValues", on.card, [field])[0]
        if value.nvmlReturn:
            raise SensorError("present power: the driver does not tell it for this device")
        return float(value.value.uiVal) / 1e3

    return _opened("power_instant_w", "nvml.field.power_instant (scope: gpu)", read)


def process_memory(on: CudaHandles, pids: Collection[int]) -> Sensor:
    """Open the bytes that the watched processes hold on the device, contexts included."""

    def read() -> float:
        held = [process.usedGpuMemory for process in processes(on) if process.pid in pids]
        if None in held:
            raise SensorError("process memory: the driver does not tell it by process here (Windows' WDDM mode)")
        return float(sum(held)) if held else math.nan  # none yet: no context, or hidden process ids

    return _opened("process_memory_bytes", "nvml.processes", read, silence=_PIDS_HIDDEN)


def device_memory(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the bytes that everybody holds on the device, without what the driver keeps for itself."""

    def read() -> float:
        return float(memory_info(on).used)

    return _opened("device_memory_bytes", "nvml.memory", read)


def busy(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the driver's share of time in which some kernel was resident; for comparison with others' tables only."""
    _refuse_slice(on, "utilisation")
    return _opened(
        "busy_ratio",
        "nvml.utilization (some kernel was resident)",
        lambda: on.ask("utilisation", "nvmlDeviceGetUtilizationRates", on.card).gpu / 100,
    )


def clock(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the clock of the multiprocessors."""
    which = on.nvml.library.NVML_CLOCK_SM
    return _opened("clock_hz", "nvml.clock_sm", lambda: on.ask("clock", "nvmlDeviceGetClockInfo", on.card, which) * 1e6)


def memory_clock(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the clock of the memory."""
    which = on.nvml.library.NVML_CLOCK_MEM
    return _opened(
        "memory_clock_hz", "nvml.clock_mem", lambda: on.ask("clock", "nvmlDeviceGetClockInfo", on.card, which) * 1e6
    )


def temperature(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the chip's temperature."""
    which = on.nvml.library.NVML_TEMPERATURE_GPU
    return _opened(
        "temperature_c",
        "nvml.temperature",
        lambda: float(on.ask("temperature", "nvmlDeviceGetTemperature", on.card, which)),
    )


def throttle_reasons(on: CudaHandles, _pids: Collection[int]) -> Sensor:
    """Open the bits that say why the clock is below its highest; older libraries have it under an older name."""
    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    for function in names:
        try:
            on.ask("throttle reasons", function, on.card)
        except SensorError as error:
            refused = error
            continue
        return _opened(
            "throttle_reasons",
            f"nvml.{function.removeprefix('nvmlDeviceGetCurrent')}",
            lambda function=function: float(on.ask("throttle reasons", function, on.card)),  # type: ignore[misc]
        )
    raise refused


def foreign_processes(on: CudaHandles, pids: Collection[int]) -> Sensor:
    """Open the number of processes on the device that are not ours."""

    def read() -> float:
        foreign = foreign_pids(on, pids)
        return math.nan if foreign is None else float(len(foreign))

    return _opened("num_foreign_processes", "nvml.processes", read, silence=_PIDS_HIDDEN)


def activity(on: CudaHandles, gpm: Gpm, quantity: str) -> Sensor:
    """Open one of the activity counters."""
    return Sensor(
        name=quantity,
        unit=QUANTITIES[quantity],
        source=f"nvml.gpm.{METRICS[quantity].removeprefix('NVML_GPM_METRIC_').lower()}",
        read=lambda: gpm.read(quantity),
        silence="no pair of samples 100 ms apart was complete",
    )


#: quantity -> what opens it; the activity counters share one source and are opened by the device.
OPENERS: dict[str, Callable[[CudaHandles, Collection[int]], Sensor]] = {
    "energy_j": energy,
    "power_w": power,
    "power_instant_w": power_instant,
    "process_memory_bytes": process_memory,
    "device_memory_bytes": device_memory,
    "busy_ratio": busy,
    "clock_hz": clock,
    "memory_clock_hz": memory_clock,
    "temperature_c": temperature,
    "throttle_reasons": throttle_reasons,
    "num_foreign_processes": foreign_processes,
}


def processes(on: CudaHandles, *, graphics: bool = False) -> list[Any]:
    """Return the driver's list of processes on the device, each with `pid` and `usedGpuMemory` (bytes or None)."""
    kind = "Graphics" if graphics else "Compute"
    try:
        return list(on.ask("processes", f"nvmlDeviceGet{kind}RunningProcesses_v3", on.device))
    except SensorError:
        return list(on.ask("processes", f"nvmlDeviceGet{kind}RunningProcesses_v2", on.device))


def foreign_pids(
    on: CudaHandles, own: Collection[int], exists: Callable[[int], bool] | None = None
) -> list[int] | None:
    """Return the processes on the device that are not ours, or None if the driver's ids cannot be told from ours.

    In a container the driver may list the host's ids: ours are not among them, and none of them exists here.
    """
    listed = {int(process.pid) for process in processes(on)}
    if on.gpu_instance is None:
        listed |= {int(process.pid) for process in _graphics(on)}
    foreign = sorted(listed - set(own))
    if listed & set(own) or not foreign:
        return foreign
    return foreign if any(map(exists or _exists, foreign)) else None


def memory_info(on: CudaHandles) -> Any:
    """Return the device's memory (`total`, `used`, bytes); the newer form leaves out what the driver keeps."""
    try:
        return on.ask("memory", "nvmlDeviceGetMemoryInfo", on.device, on.nvml.library.nvmlMemory_v2)
    except SensorError:
        return on.ask("memory", "nvmlDeviceGetMemoryInfo", on.device)


def _graphics(on: CudaHandles) -> Iterable[Any]:
    try:
        return processes(on, graphics=True)
    except SensorError:
        return ()  # cards without a display say nothing of graphics


def _exists(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid)) and pid != os.getpid()


def _refuse_slice(on: CudaHandles, what: str) -> None:
    if on.gpu_instance is not None:
        raise SensorError(f"{what}: {_WHOLE_CARD_ONLY.format(what)}")


def _scope(name: str) -> str:
    """Return what a counter covers: on Grace superchips processor and card together.

    >>> _scope("NVIDIA H200"), _scope("NVIDIA GH200 480GB")
    ('gpu', 'module')
    """
    return "module" if any(word in name for word in ("GH200", "GB200", "GB300")) else "gpu"


def _opened(
    name: str, source: str, read: Callable[[], float], *, cumulative: bool = False, silence: str = ""
) -> Sensor:
    """Read once, so that what the driver does not tell is absent from the start."""
    read()
    return Sensor(name=name, unit=QUANTITIES[name], source=source, read=read, cumulative=cumulative, silence=silence)
