"""The sampler: its grid in time, its files and its end, in one process with a scripted clock and in processes for real."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from efficientllm import catalog, registry
from efficientllm.devices._contract import QUANTITIES
from efficientllm.devices.cpu import CpuDevice
from efficientllm.devices.fake import FakeDevice
from efficientllm.errors import UserError
from efficientllm.meters.process import SamplerProcess
from efficientllm.meters.sampler import Sampler
from efficientllm.meters.samples import read_samples

LIMIT_S = 30.0


# the meters of the folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.names("meter"))
def test_every_meter_gives_each_of_its_quantities_as_a_sensor_or_a_reason(name):
    meter = registry.load("meter", name)
    for device in (CpuDevice(), FakeDevice({"sensors": {q: {"points": [[0, 1]]} for q in meter.quantities}})):
        sensors, absent = meter.open(device, [os.getpid()])
        assert {sensor.name for sensor in sensors} | set(absent) == set(meter.quantities)
        assert not {sensor.name for sensor in sensors} & set(absent)
    assert meter.title and meter.interval_s >= 0


def test_every_quantity_of_a_device_has_exactly_one_meter():
    quantities = [q for name in catalog.names("meter") for q in registry.load("meter", name).quantities]
    assert sorted(quantities) == sorted(QUANTITIES)


# the loop, on a scripted clock -----------------------------------------------------------------------------------


class ScriptedRun:
    """A sampler over a fake device, with time that moves only when it is told to."""

    def __init__(self, tmp_path, sensors, interval_s=0.1, meters=("energy",), **script):
        self.now_s, self.file = 0.0, tmp_path / "samples.txt"
        self.out = self.file.open("wb", buffering=0)
        device = FakeDevice({"origin_s": 0.0, "sensors": sensors, **script}, clock=lambda: self.now_s)
        self.sampler = Sampler(device, [1], self.out, interval_s, meters, clock=lambda: self.now_s)

    def until(self, end_s, late_s=0.0):
        while self.now_s < end_s:
            self.now_s += self.sampler.tick() + late_s

    def samples(self):
        return read_samples(self.file)


def test_readings_lie_on_a_grid_and_lateness_does_not_add_up(tmp_path):
    run = ScriptedRun(tmp_path, {"power_w": {"value": lambda s: s}})
    run.until(1.0, late_s=0.03)
    at_s = run.samples().series["power_w"].at_s
    assert at_s[0] == 0.0
    assert [round(at % 0.1, 6) for at in at_s[1:]] == [0.03] * (len(at_s) - 1)
    assert len(at_s) == 10


def test_missed_readings_are_not_made_up_for(tmp_path):
    run = ScriptedRun(tmp_path, {"power_w": {"value": lambda s: s}})
    run.until(0.25)
    run.now_s = 1.01
    run.until(1.15)
    assert [round(at, 6) for at in run.samples().series["power_w"].at_s] == [0.0, 0.1, 0.2, 1.01, 1.1]


def test_a_meter_with_a_longer_interval_is_read_less_often(tmp_path):
    sensors = {"power_w": {"points": [[0, 1]]}, "temperature_c": {"points": [[0, 40]]}}
    run = ScriptedRun(tmp_path, sensors, interval_s=0.05, meters=("energy", "clock"))
    run.until(1.999)
    series = run.samples().series
    assert len(series["power_w"].values) == 40
    assert len(series["temperature_c"].values) == 10


def test_a_sensor_that_vanishes_ends_with_its_reason_and_the_others_go_on(tmp_path):
    sensors = {
        "power_w": {"points": [[0, 500]], "fails_at_s": 0.45, "fails_with": "the driver lost the card"},
        "energy_j": {"value": lambda s: 500 * s, "cumulative": True},
    }
    run = ScriptedRun(tmp_path, sensors)
    run.until(1.05)
    samples = run.samples()
    assert len(samples.series["power_w"].values) == 5
    assert len(samples.series["energy_j"].values) == 11
    assert samples.absent["power_w"] == "ended 0.7 s in: the driver lost the card"


def test_one_failure_is_no_end(tmp_path):
    failures = iter([False, True, True, False, True, True, False])

    def stumbling(at_s):
        if next(failures):
            raise OSError("try again")
        return at_s

    run = ScriptedRun(tmp_path, {"power_w": {"value": stumbling}})
    run.until(0.65)
    samples = run.samples()
    assert "power_w" not in samples.absent
    assert len(samples.series["power_w"].values) == 3


def test_a_meter_of_a_users_own_may_break_without_harm_to_the_others(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from efficientllm.devices._contract import Sensor\n"
        "from efficientllm.meters._contract import MeterEntry\n"
        "def broken(): return {}['no such key']\n"
        "def fine(): return 42\n"
        "ENTRY = MeterEntry(title='mine', quantities=('a_s', 'b_s'), interval_s=0.0,\n"
        "    open=lambda device, pids: ([Sensor('a_s', 's', 'me', broken), Sensor('b_s', 's', 'me', fine)], {}))\n"
    )
    run = ScriptedRun(tmp_path, {"power_w": {"points": [[0, 1]]}}, meters=(str(file), "energy"))
    run.until(0.55)
    samples = run.samples()
    assert len(samples.series["b_s"].values) == len(samples.series["power_w"].values) == 6
    assert "no such key" in samples.absent["a_s"]


def test_nothing_said_is_no_reading_and_never_a_zero(tmp_path):
    run = ScriptedRun(tmp_path, {"power_w": {"points": [[0.35, 7]]}, "power_instant_w": {"points": [[99, 1]]}})
    run.until(0.65)
    samples = run.samples()
    assert samples.series["power_w"].values == (7.0, 7.0, 7.0)
    assert samples.absent["power_instant_w"] == "the script says nothing"
    assert not any(math.isnan(value) for series in samples.series.values() for value in series.values)


def test_a_reading_is_dated_to_the_middle_of_the_time_it_took(tmp_path):
    def slow(_at_s):
        run.now_s += 0.02
        return 5.0

    run = ScriptedRun(tmp_path, {"power_w": {"value": slow}})
    run.sampler.tick()
    assert run.samples().series["power_w"].at_s == (0.01,)


def test_the_end_takes_a_last_reading_of_everything(tmp_path):
    run = ScriptedRun(tmp_path, {"power_w": {"value": lambda s: s}, "temperature_c": {"value": lambda s: s}})
    run.until(0.25)
    run.now_s = 0.26
    run.sampler.finish()
    samples = run.samples()
    assert samples.series["power_w"].at_s[-1] == 0.26
    assert (samples.ended, samples.end_s) == ("", 0.26)


# processes, for real ---------------------------------------------------------------------------------------------


def wait_until(true):
    """Wait for an event of another process; the limit only ends a test that fails."""
    limit_s = time.perf_counter() + LIMIT_S
    while not true():
        assert time.perf_counter() < limit_s, "it never happened"
        time.sleep(0.01)


def num_lines(path, first):
    return sum(line.startswith(first) for line in path.read_bytes().splitlines())


@pytest.fixture
def script(tmp_path):
    def write(**sensors):
        path = tmp_path / "script.json"
        path.write_text(json.dumps({"info": {"name": "scripted", "cores": 4}, "sensors": sensors}))
        return FakeDevice(str(path))

    return write


def test_a_sampler_watches_this_process_on_this_processs_clock():
    device = CpuDevice()
    begin_s = time.perf_counter()
    with SamplerProcess.start(device, [os.getpid()], interval_s=0.02) as sampler:
        held = bytearray(b"\1") * (96 << 20)
        own = time.process_time()
        while time.process_time() - own < 0.2:
            pass
    end_s = time.perf_counter()
    samples = sampler.stop()
    memory, used = samples.series["process_memory_bytes"], samples.series["processor_s"]
    assert samples.ended == "" and samples.clock_offset_s == 0.0 and samples.clock_error_s > 0
    assert begin_s < memory.at_s[0] < memory.at_s[-1] < end_s
    assert memory.values[-1] - memory.values[0] > 80 << 20
    assert 0.2 <= used.values[-1] - used.values[0] <= end_s - begin_s
    assert samples.device == device.info()
    assert samples.processor_s > 0 and samples.elapsed_s > 0
    assert len(held) == 96 << 20


def test_a_fake_device_is_replayed_in_the_samplers_own_process(script, tmp_path):
    path = tmp_path / "kept.txt"
    device = script(
        energy_j={"points": [[0, 0], [100, 70000]], "linear": True, "update_every_s": 0.02, "cumulative": True}
    )
    sampler = SamplerProcess.start(device, [], interval_s=0.01, path=path, rank=2, index=1)
    wait_until(lambda: num_lines(path, b"2 ") + num_lines(path, b"0 ") > 20)
    samples = sampler.stop()
    energy = samples.series["energy_j"]
    assert (energy.rank, energy.device, samples.device.name) == (2, 1, "scripted")
    assert all(value == pytest.approx(round(value / 14) * 14, abs=1e-6) for value in energy.values)
    assert path.is_file() and not Path(f"{path}.errors").exists()
    assert read_samples(path).series["energy_j"].values == energy.values


def test_a_driver_that_vanishes_ends_its_series_and_not_the_sampler(script, tmp_path):
    path = tmp_path / "kept.txt"
    device = script(
        power_w={"points": [[0, 300]], "fails_at_s": 0.1, "fails_with": "the driver vanished"},
        process_memory_bytes={"points": [[0, 1000]]},
    )
    sampler = SamplerProcess.start(device, [], interval_s=0.01, path=path)
    wait_until(lambda: num_lines(path, b"!") == 1)
    at_end = path.stat().st_size
    wait_until(lambda: path.stat().st_size > at_end + 500)
    samples = sampler.stop()
    assert "the driver vanished" in samples.absent["power_w"]
    assert samples.series["process_memory_bytes"].at_s[-1] > samples.series["power_w"].at_s[-1]
    assert samples.ended == ""


def test_a_killed_sampler_leaves_what_it_had_read_and_says_how_it_ended(script, tmp_path):
    path = tmp_path / "kept.txt"
    sampler = SamplerProcess.start(script(power_w={"points": [[0, 300]]}), [], interval_s=0.01, path=path)
    wait_until(lambda: num_lines(path, b"0 ") >= 5)
    os.kill(sampler.pid, signal.SIGKILL)
    samples = sampler.stop()
    assert len(samples.series["power_w"].values) >= 5
    assert "before it was stopped (exit code -9)" in samples.ended
    assert sampler.stop() is samples


def test_a_watched_process_may_end_and_another_be_added(tmp_path):
    path = tmp_path / "kept.txt"
    child = subprocess.Popen([sys.executable, "-c", "x = bytearray(b'1') * (64 << 20); print(1, flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    child.stdout.readline()
    sampler = SamplerProcess.start(CpuDevice(), [child.pid], interval_s=0.01, path=path, meters=["memory"])
    wait_until(lambda: num_lines(path, b"0 ") >= 3)
    child.communicate("\n")
    watched = num_lines(path, b"0 ")
    wait_until(lambda: num_lines(path, b"1 ") >= watched + 10)
    assert num_lines(path, b"0 ") <= watched + 1
    sampler.add_pid(os.getpid())
    wait_until(lambda: num_lines(path, b"0 ") >= watched + 3)
    samples = sampler.stop()
    assert samples.ended == "" and samples.series["process_memory_bytes"].values[0] > 64 << 20


@pytest.mark.parametrize("death", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_no_sampler_outlives_its_parent(death, tmp_path):
    path = tmp_path / "kept.txt"
    program = (
        "import os, pathlib\n"
        "from efficientllm.devices.cpu import CpuDevice\n"
        "from efficientllm.meters.process import SamplerProcess\n"
        f"SamplerProcess.start(CpuDevice(), [os.getpid()], interval_s=0.01, path=pathlib.Path({str(path)!r}))\n"
        f"{death}\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=LIMIT_S, check=False)
    wait_until(lambda: path.read_bytes().splitlines()[-1].startswith(b". "))
    assert read_samples(path).ended == ""


def test_a_sampler_ends_with_its_input(tmp_path):
    path = tmp_path / "kept.txt"
    request = json.dumps({"device": "cpu", "path": str(path)})
    command = [sys.executable, "-m", "efficientllm.meters.sampler", request]
    subprocess.run(command, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=True, capture_output=True)
    assert read_samples(path).ended == ""


def test_an_interrupt_of_the_parents_group_does_not_end_the_sampler(script, tmp_path):
    path = tmp_path / "kept.txt"
    sampler = SamplerProcess.start(script(power_w={"points": [[0, 300]]}), [], interval_s=0.01, path=path)
    os.kill(sampler.pid, signal.SIGINT)
    seen = num_lines(path, b"0 ")
    wait_until(lambda: num_lines(path, b"0 ") > seen + 5)
    assert sampler.stop().ended == ""


def test_a_sampler_that_cannot_start_says_why_in_one_line(tmp_path):
    device = FakeDevice({})
    device.address = str(tmp_path / "no-script.json")
    with pytest.raises(UserError, match=r"the sampler did not start: .*no-script\.json"):
        SamplerProcess.start(device, [])


def test_the_samplers_process_loads_neither_torch_nor_numpy():
    program = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'scipy', 'pandas'): sys.modules[name] = None\n"
        "from efficientllm import catalog, registry\n"
        "import efficientllm.meters.sampler, efficientllm.meters.process, efficientllm.meters.windows\n"
        "from efficientllm.devices.choose import open_device\n"
        "for name in catalog.names('meter'): registry.load('meter', name).open(open_device(), [1])\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT_S)
