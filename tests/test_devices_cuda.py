"""The NVIDIA device over a replayed driver: real `pynvml` names, signatures, structures and errors, made-up answers."""

import ctypes
import inspect
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from efficientllm import devices
from efficientllm.devices import cuda, cuda_sensors
from efficientllm.devices._contract import THROTTLE_BITS, SensorError
from efficientllm.devices.gpm import Gpm
from efficientllm.devices.nvml import Nvml
from efficientllm.errors import Unsupported, UserError

CARD, OTHER, SLICE = "GPU-aaaa-1", "GPU-bbbb-2", "MIG-cccc-3"
GIB = 1 << 30


class ReplayedDriver:
    """Stands where the `pynvml` module stands. What is not scripted is answered "not supported".

    Every call is checked against the signature of the real function, so that a wrong name or argument fails here.
    """

    def __init__(self, **answers):
        self.answers = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: (CARD, OTHER)[index],
            "nvmlDeviceGetHandleByUUID": self.by_uuid,
            "nvmlDeviceGetUUID": lambda handle: handle,
            "nvmlDeviceGetName": lambda handle: "NVIDIA H200",
            "nvmlSystemGetDriverVersion": lambda: "580.159.04",
            "nvmlDeviceGetMemoryInfo": lambda handle, version=None: SimpleNamespace(total=141 * GIB, used=3 * GIB),
            **answers,
        }

    def by_uuid(self, uuid):
        if uuid in (CARD, OTHER, SLICE):
            return uuid
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def __getattr__(self, name):
        real = getattr(pynvml, name)
        if not inspect.isfunction(real) or not name.startswith("nvml"):
            return real

        def call(*arguments):
            inspect.signature(real).bind(*arguments)
            if name not in self.answers:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return self.answers[name](*arguments)

        return call


def failing(code):
    def fail(*_):
        raise pynvml.NVMLError(code)

    return fail


def opened(uuid=CARD, **answers):
    return cuda.CudaDevice(uuid, Nvml(ReplayedDriver(**answers)))


def process(pid, used_bytes):
    return SimpleNamespace(pid=pid, usedGpuMemory=used_bytes)


def test_every_function_and_constant_of_nvml_that_is_named_exists():
    named = set()
    for file in Path(devices.__file__).parent.glob("*.py"):
        named |= set(re.findall(r"\b(?:nvml[A-Z]\w+|NVML_[A-Z]\w+|c_nvml\w+)\b", file.read_text()))
    named -= {name for name in named if name.endswith("_")}  # beginnings of names
    named -= {"nvmlDeviceGet", "nvmlDeviceGetCurrent", "nvmlReturn"}  # the same, and a field
    assert len(named) > 20
    assert [name for name in named if not hasattr(pynvml, name)] == []


def test_the_card_is_described():
    info = opened(
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
        nvmlDeviceGetCudaComputeCapability=lambda handle: (9, 0),
        nvmlDeviceGetNumGpuCores=lambda handle: 16896,
    ).info()
    assert (info.kind, info.name, info.uuid, info.driver) == ("cuda", "NVIDIA H200", CARD, "580.159.04")
    assert (info.capacity_bytes, info.power_cap_w, info.cores) == (141 * GIB, 700.0, 132)
    assert info.last_level_cache_bytes == 60 << 20


def test_what_the_driver_does_not_tell_of_a_card_is_unknown():
    info = opened().info()
    assert (info.power_cap_w, info.cores) == (None, 0)


def test_readings_are_in_base_units():
    field = pynvml.c_nvmlFieldValue_t()
    field.value.uiVal = 412_000
    device = opened(
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 123_456_789,
        nvmlDeviceGetPowerUsage=lambda handle: 690_500,
        nvmlDeviceGetFieldValues=lambda handle, ids: [field],
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=87, memory=40),
        nvmlDeviceGetClockInfo=lambda handle, kind: {1: 1980, 2: 3201}[kind],
        nvmlDeviceGetTemperature=lambda handle, kind: 61,
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: pynvml.nvmlClocksEventReasonSwPowerCap,
    )
    read = {sensor.name: sensor.read() for sensor in device.sensors([])}
    assert read["energy_j"] == pytest.approx(123_456.789)
    assert (read["power_w"], read["power_instant_w"]) == (690.5, 412.0)
    assert (read["clock_hz"], read["memory_clock_hz"]) == (1.98e9, 3.201e9)
    assert (read["busy_ratio"], read["temperature_c"]) == (0.87, 61.0)
    assert read["throttle_reasons"] == THROTTLE_BITS["power_cap"]
    assert read["device_memory_bytes"] == 3 * GIB


def test_the_throttle_bits_are_the_drivers():
    drivers = {
        "power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
        "hardware_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
        "software_thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        "hardware_thermal": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
        "power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    }
    assert drivers == THROTTLE_BITS


def test_an_older_library_tells_throttling_under_its_older_name():
    device = opened(nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 8)
    assert device.sensor("throttle_reasons", []).read() == 8.0


def test_the_energy_counters_scope_stands_in_its_source():
    counter = {"nvmlDeviceGetTotalEnergyConsumption": lambda handle: 1}
    assert "(scope: gpu)" in opened(**counter).sensor("energy_j", []).source
    grace = opened(**counter, nvmlDeviceGetName=lambda handle: "NVIDIA GH200 480GB")
    assert "(scope: module)" in grace.sensor("energy_j", []).source


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "does not tell it"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "an administrator may allow it"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "lost the card"),
        (pynvml.NVML_ERROR_UNINITIALIZED, "driver vanished"),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, "too old"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
def test_a_drivers_error_becomes_the_reason_of_absence(code, words):
    absent = opened(nvmlDeviceGetTotalEnergyConsumption=failing(code)).absent()
    assert absent["energy_j"].startswith("energy counter: ")
    assert words in absent["energy_j"]


def test_a_counter_that_fails_in_mid_run_raises_its_reason():
    answers = iter([5000])

    def counter(handle):
        for value in answers:
            return value
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    sensor = opened(nvmlDeviceGetTotalEnergyConsumption=counter).sensor("energy_j", [])
    with pytest.raises(SensorError, match="lost the card"):
        sensor.read()


def test_a_library_of_another_version_is_told_as_such():
    def mismatch(*_):
        raise pynvml.NVMLLibraryMismatchError("versions")

    assert "too old" in opened(nvmlDeviceGetPowerUsage=mismatch).absent()["power_w"]


# processes -------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_watched_processes_alone():
    listed = [process(10, 5 * GIB), process(11, 2 * GIB), process(99, 30 * GIB)]
    device = opened(nvmlDeviceGetComputeRunningProcesses_v3=lambda handle: listed)
    pids = [10]
    sensor = device.sensor("process_memory_bytes", pids)
    assert sensor.read() == 5 * GIB
    pids.append(11)
    assert sensor.read() == 7 * GIB


def test_a_process_that_the_driver_does_not_list_holds_an_unknown_amount_and_not_zero():
    sensor = opened(nvmlDeviceGetComputeRunningProcesses_v3=lambda handle: []).sensor("process_memory_bytes", [10])
    assert math.isnan(sensor.read())
    assert "containers" in sensor.silence and "device_memory_bytes" in sensor.silence


def test_an_older_driver_lists_processes_by_its_older_function():
    device = opened(nvmlDeviceGetComputeRunningProcesses_v2=lambda handle: [process(10, GIB)])
    assert device.sensor("process_memory_bytes", [10]).read() == GIB


def test_memory_that_the_driver_does_not_split_by_process_is_absent():
    device = opened(nvmlDeviceGetComputeRunningProcesses_v3=lambda handle: [process(10, None)])
    with pytest.raises(SensorError, match="WDDM"):
        device.sensor("process_memory_bytes", [10])


def test_what_the_calling_process_holds_is_told_or_refused():
    listed = [process(os.getpid(), 7 * GIB)]
    assert opened(nvmlDeviceGetComputeRunningProcesses_v3=lambda h: listed).process_memory_bytes() == 7 * GIB
    with pytest.raises(SensorError, match="none of our process ids"):
        opened(nvmlDeviceGetComputeRunningProcesses_v3=lambda h: []).process_memory_bytes()


def test_other_processes_are_foreign_whether_they_compute_or_draw():
    device = opened(
        nvmlDeviceGetComputeRunningProcesses_v3=lambda handle: [process(10, GIB), process(os.getppid(), GIB)],
        nvmlDeviceGetGraphicsRunningProcesses_v3=lambda handle: [process(1, GIB)],
    )
    assert device.foreign_pids([10]) == sorted({1, os.getppid()})
    assert device.sensor("num_foreign_processes", [10]).read() == 2.0
    assert device.sensor("num_foreign_processes", [10, 1, os.getppid()]).read() == 0.0


def test_process_ids_of_another_name_space_are_not_called_foreign():
    on = SimpleNamespace(
        ask=Nvml(ReplayedDriver(nvmlDeviceGetComputeRunningProcesses_v3=lambda handle: [process(77, GIB)])).ask,
        device=CARD,
        gpu_instance=None,
    )
    assert cuda_sensors.foreign_pids(on, [10], exists=lambda pid: False) is None
    assert cuda_sensors.foreign_pids(on, [10], exists=lambda pid: True) == [77]
    assert cuda_sensors.foreign_pids(on, [77], exists=lambda pid: False) == []


# activity counters -----------------------------------------------------------------------------------------------


class ReplayedGpm:
    """Samples hold a time; metrics are what the script says was busy between two of them, in percent."""

    def __init__(self, busy_percent):
        self.now_s, self.busy_percent, self.taken, self.num_buffers = 0.0, busy_percent, {}, 0

    def answers(self):
        return {
            "nvmlGpmQueryDeviceSupport": lambda handle: SimpleNamespace(isSupportedDevice=1),
            "nvmlGpmSampleAlloc": self.alloc,
            "nvmlGpmSampleGet": lambda handle, buffer: self.taken.__setitem__(self.key(buffer), self.now_s),
            "nvmlGpmMigSampleGet": lambda handle, instance, buffer: self.taken.__setitem__(
                self.key(buffer), self.now_s + 1000 * instance
            ),
            "nvmlGpmMetricsGet": self.compare,
        }

    def alloc(self):
        self.num_buffers += 1
        return ctypes.cast(64 * self.num_buffers, pynvml.c_nvmlGpmSample_t)  # an address that is never looked into

    def key(self, buffer):
        return ctypes.cast(buffer, ctypes.c_void_p).value

    def compare(self, request):
        assert request.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        begin_s, end_s = self.taken[self.key(request.sample1)], self.taken[self.key(request.sample2)]
        assert begin_s < end_s
        for metric in request.metrics[: request.numMetrics]:
            metric.nvmlReturn = 0
            metric.value = self.busy_percent[metric.metricId](begin_s, end_s)
        return request


def test_activity_is_the_mean_between_two_samples_a_tenth_of_a_second_apart():
    replay = ReplayedGpm(
        {
            pynvml.NVML_GPM_METRIC_SM_UTIL: lambda begin, end: 100 * begin,
            pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: lambda begin, end: 100 * end,
            pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: lambda begin, end: math.nan,
        }
    )
    gpm = Gpm(Nvml(ReplayedDriver(**replay.answers())), CARD, clock=lambda: replay.now_s)
    replay.now_s = 0.05
    assert math.isnan(gpm.read("sm_activity_ratio"))
    replay.now_s = 0.125
    assert gpm.read("sm_activity_ratio") == 0.0
    assert gpm.read("tensor_activity_ratio") == 0.125
    assert math.isnan(gpm.read("dram_activity_ratio"))
    assert math.isnan(gpm.read("sm_activity_ratio"))
    replay.now_s = 0.25
    assert gpm.read("sm_activity_ratio") == 0.125
    assert gpm.read("tensor_activity_ratio") == 0.25


def test_a_card_without_activity_counters_says_so():
    device = opened(nvmlGpmQueryDeviceSupport=lambda handle: SimpleNamespace(isSupportedDevice=0))
    assert "Hopper" in device.absent()["tensor_activity_ratio"]


# slices ----------------------------------------------------------------------------------------------------------


def sliced(**answers):
    return opened(
        SLICE,
        nvmlDeviceGetDeviceHandleFromMigDeviceHandle=lambda handle: CARD,
        nvmlDeviceGetGpuInstanceId=lambda handle: 3,
        nvmlDeviceGetName=lambda handle: "NVIDIA H200 MIG 1g.18gb",
        nvmlDeviceGetAttributes_v2=lambda handle: SimpleNamespace(multiprocessorCount=16),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1,
        nvmlDeviceGetPowerUsage=lambda handle: 1,
        nvmlDeviceGetTemperature=lambda handle, kind: 50 if handle == CARD else -1,
        nvmlDeviceGetComputeRunningProcesses_v3=lambda handle: [process(10, GIB)] if handle == SLICE else [],
        **answers,
    )


def test_of_a_slice_no_energy_is_told_since_the_counter_is_the_whole_cards():
    absent = sliced().absent()
    for quantity in ("energy_j", "power_w", "power_instant_w", "busy_ratio"):
        assert "MIG slice" in absent[quantity]


def test_a_slice_tells_its_own_memory_and_its_cards_temperature():
    device = sliced()
    assert device.sensor("process_memory_bytes", [10]).read() == GIB
    assert device.sensor("temperature_c", []).read() == 50
    assert device.info().cores == 16
    assert device.info().last_level_cache_bytes == 0


def test_activity_of_a_slice_is_sampled_on_its_instance():
    replay = ReplayedGpm(dict.fromkeys((2, 5, 10), lambda begin, end: begin // 1000))
    gpm = Gpm(Nvml(ReplayedDriver(**replay.answers())), CARD, 3, clock=lambda: replay.now_s)
    replay.now_s = 0.125
    assert gpm.read("sm_activity_ratio") == 0.03


# finding ---------------------------------------------------------------------------------------------------------


def test_the_first_visible_card_is_opened_by_its_uuid(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    nvml = Nvml(ReplayedDriver())
    assert cuda.open_cuda("", nvml).address == OTHER
    assert cuda.open_cuda("1", nvml).address == CARD
    assert cuda.open_cuda(CARD, nvml).address == CARD


def test_a_hidden_card_is_refused_in_one_line_that_names_the_variable(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(UserError, match=r"cuda:1 is not visible here: CUDA_VISIBLE_DEVICES='1' leaves 1 of 2"):
        cuda.open_cuda("1", Nvml(ReplayedDriver()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES=''" in cuda.why_not(Nvml(ReplayedDriver()))


def test_an_unknown_uuid_is_refused():
    with pytest.raises(UserError, match=r"GPU-ffff.*no longer finds"):
        cuda.open_cuda("GPU-ffff", Nvml(ReplayedDriver()))


def test_slices_are_listed_with_their_numbers(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def place(handle, index):
        if (handle, index) == (OTHER, 1):
            return SLICE
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    nvml = Nvml(
        ReplayedDriver(
            nvmlDeviceGetMigMode=lambda handle: [int(handle == OTHER), 0],
            nvmlDeviceGetMaxMigDeviceCount=lambda handle: 7,
            nvmlDeviceGetMigDeviceHandleByIndex=place,
            nvmlDeviceGetGpuInstanceId=lambda handle: 5,
            nvmlDeviceGetComputeInstanceId=lambda handle: 0,
        )
    )
    card, other = nvml.cards()
    assert not card.mig and other.mig
    assert [(one.uuid, one.gpu_instance) for one in other.slices] == [(SLICE, 5)]
    assert cuda.visible_here(nvml) == [SLICE]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert cuda.visible_here(nvml) == [CARD]


def test_a_card_that_torch_cannot_use_is_refused_with_what_to_do():
    with pytest.raises(UserError, match="Install a CUDA build of torch that fits driver 580"):
        opened().torch_device()


def test_ranks_take_the_visible_cards_in_order_and_more_than_there_are_is_unsupported(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    first = cuda.open_cuda("", Nvml(ReplayedDriver()))
    assert [device.address for device in first.group(2)] == [OTHER, CARD]
    assert [device.address for device in first.group(1)] == [OTHER]
    with pytest.raises(Unsupported, match=r"^ranks 4, but this machine has 2 cuda device\(s\)$"):
        first.group(4)
    with pytest.raises(Unsupported, match="cuda:1 is not the first"):
        cuda.open_cuda("1", Nvml(ReplayedDriver())).group(2)
