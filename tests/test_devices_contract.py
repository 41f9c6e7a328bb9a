"""What every device of the folder must do, whatever it is."""

import subprocess
import sys

import pytest

from efficientllm import catalog, registry
from efficientllm.devices._contract import QUANTITIES, SensorError
from efficientllm.devices.choose import open_device

OPENABLE = [name for name in catalog.names("device") if not registry.load("device", name).why_not()]


@pytest.fixture(params=OPENABLE)
def device(request):
    return open_device(request.param)


def test_the_processor_can_be_opened_everywhere():
    assert "cpu" in OPENABLE


def test_every_quantity_is_a_sensor_or_a_sentence(device):
    absent = device.absent()
    sensors = {sensor.name: sensor for sensor in device.sensors([])}
    assert set(absent) | set(sensors) == set(QUANTITIES)
    assert not set(absent) & set(sensors)
    assert all(len(reason.split()) >= 4 for reason in absent.values())
    assert all(sensor.unit == QUANTITIES[name] and sensor.source for name, sensor in sensors.items())


def test_a_quantity_nobody_knows_is_refused_with_a_reason(device):
    with pytest.raises(SensorError, match="banana_bytes"):
        device.sensor("banana_bytes", [])


def test_the_identity_is_the_same_each_time_and_names_the_kind(device):
    assert device.info() == device.info()
    assert device.info().kind == device.kind
    assert device.info().uuid


def test_the_address_opens_the_same_device(device):
    assert open_device(device.kind, device.address).info() == device.info()


def test_the_torch_face_computes_on_the_device(device):
    import torch

    total = torch.ones(8, device=device.torch_device()).sum()
    device.reset_peak_memory()
    device.synchronize()
    device.empty_cache()
    assert total.item() == 8
    assert set(device.allocator_figures()) <= {"allocated_peak_bytes", "reserved_peak_bytes"}


def test_running_out_of_memory_is_told_from_other_errors(device):
    import torch

    with pytest.raises(RuntimeError) as exbibyte:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert device.is_out_of_memory(exbibyte.value)
    assert device.is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not device.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not device.is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("name", catalog.names("device"))
def test_opening_a_device_and_its_sensors_needs_no_torch(name):
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['numpy'] = None; sys.modules['scipy'] = None\n"
        "from efficientllm import registry\n"
        f"entry = registry.load('device', {name!r})\n"
        "print(entry.why_not() or [entry.open('').sensors([]), entry.open('').info()])"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
