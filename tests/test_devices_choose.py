"""Choosing a device: what is asked for, what is found, what is refused."""

import json

import pynvml
import pytest

from efficientllm.devices.choose import first_accelerator, open_device
from efficientllm.errors import UnknownNameError, UserError


def driver_is_here():
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount() > 0
    except pynvml.NVMLError:
        return False


def test_without_an_accelerator_the_processor_is_chosen_and_cuda_is_refused(monkeypatch):
    if driver_is_here():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert first_accelerator() == ""
    assert open_device().kind == open_device("auto").kind == "cpu"
    with pytest.raises(
        UserError, match=r"device cuda cannot be opened: .+\. Use device: cpu or device: auto\."
    ) as caught:
        open_device("cuda")
    assert "\n" not in str(caught.value)


def test_an_unknown_device_is_answered_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="Did you mean 'cuda'"):
        open_device("cudo")


def test_a_script_is_the_address_of_a_fake_device(tmp_path):
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"info": {"name": "scripted", "capacity_bytes": 7}}))
    device = open_device("fake", str(script))
    assert (device.info().name, device.info().capacity_bytes, device.address) == ("scripted", 7, str(script))
    with pytest.raises(UserError, match="cannot be read"):
        open_device("fake", str(tmp_path / "none.json"))


def test_a_users_own_device_file_is_opened(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from efficientllm.devices._contract import DeviceEntry\n"
        "from efficientllm.devices.fake import FakeDevice\n"
        "ENTRY = DeviceEntry(title='mine', why_not=lambda: '',\n"
        "                    open=lambda address: FakeDevice({'info': {'name': 'mine'}}))\n"
    )
    assert open_device(str(file)).info().name == "mine"
