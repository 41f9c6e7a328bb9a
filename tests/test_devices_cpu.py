"""The processor: its facts from real and from other machines' files, its memory, its seconds, its energy counter."""

import contextlib
import math
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from efficientllm.devices import cpu_facts
from efficientllm.devices._contract import SensorError
from efficientllm.devices.cpu import CpuDevice
from efficientllm.devices.cpu_sensors import ProcessorSeconds, process_clock
from efficientllm.devices.rapl import Rapl

MIB = 1 << 20


def put(root, files):
    for name, text in files.items():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Path(root)


def rapl_domain(root, folder, name, counter, range_uj=1_000_000):
    return put(
        root,
        {
            f"{folder}/name": name + "\n",
            f"{folder}/energy_uj": f"{counter}\n",
            f"{folder}/max_energy_range_uj": f"{range_uj}\n",
        },
    )


# facts -----------------------------------------------------------------------------------------------------------


def test_a_machine_without_any_of_linux_files_is_still_described(tmp_path):
    info = CpuDevice(tmp_path).info()
    assert info.name and info.uuid.startswith("cpu-") and info.cores >= 1 and info.capacity_bytes > 0
    assert info.last_level_cache_bytes == 0


def test_a_machine_without_any_of_linux_files_says_why_each_quantity_is_absent(tmp_path):
    absent = CpuDevice(tmp_path).absent()
    assert {"energy_j", "clock_hz", "temperature_c", "machine_processor_s"} <= set(absent)
    assert "no RAPL domain on this machine" in absent["energy_j"]


def test_where_linux_says_nothing_memory_is_told_by_psutil(tmp_path):
    sensor = CpuDevice(tmp_path).sensor("process_memory_bytes", [os.getpid()])
    assert sensor.source == "psutil.uss"
    assert sensor.read() > MIB


def test_two_machines_of_one_model_differ_and_no_machine_id_is_told(tmp_path):
    cpuinfo = {"proc/cpuinfo": "processor : 0\nmodel name : Tester 9000\n"}
    one = CpuDevice(put(tmp_path / "a", cpuinfo | {"etc/machine-id": "aaaa1111\n"})).info()
    two = CpuDevice(put(tmp_path / "b", cpuinfo | {"etc/machine-id": "bbbb2222\n"})).info()
    assert one.name == two.name == "Tester 9000"
    assert one.uuid != two.uuid
    assert "aaaa1111" not in repr(one)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "10000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_the_control_groups_quota_limits_the_cores(tmp_path, files, cores):
    assert cpu_facts.usable_cores(put(tmp_path, files)) == (cores or len(os.sched_getaffinity(0)))


def test_the_control_groups_limit_is_the_capacity_where_it_is_lower(tmp_path):
    meminfo = {"proc/meminfo": "MemTotal:       16777216 kB\n"}
    assert cpu_facts.memory_bytes(put(tmp_path, meminfo)) == 16 << 30
    assert cpu_facts.memory_bytes(put(tmp_path, meminfo | {"sys/fs/cgroup/memory.max": str(4 << 30)})) == 4 << 30
    assert cpu_facts.memory_bytes(put(tmp_path, meminfo | {"sys/fs/cgroup/memory.max": "max"})) == 16 << 30


def test_what_the_kernel_keeps_back_does_not_change_the_capacity(tmp_path):
    one = CpuDevice(
        put(tmp_path / "a", {"proc/meminfo": "MemTotal:       16384084 kB\n", "etc/machine-id": "m"})
    ).info()
    two = CpuDevice(
        put(tmp_path / "b", {"proc/meminfo": "MemTotal:       16380000 kB\n", "etc/machine-id": "m"})
    ).info()
    assert one.capacity_bytes == two.capacity_bytes == 16 << 30


def test_the_outermost_cache_is_the_last_level(tmp_path):
    folder = "sys/devices/system/cpu/cpu0/cache"
    files = {f"{folder}/index0/level": "1", f"{folder}/index0/size": "48K"}
    files |= {f"{folder}/index3/level": "3", f"{folder}/index3/size": "32M"}
    assert cpu_facts.last_level_cache_bytes(put(tmp_path, files)) == 32 * MIB


# memory ----------------------------------------------------------------------------------------------------------


def test_memory_counts_what_was_written_and_not_what_is_mapped_from_a_file(tmp_path):
    device = CpuDevice()
    file = tmp_path / "tokens.bin"
    file.write_bytes(b"\1" * (64 * MIB))
    before = device.process_memory_bytes()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as tokens:
        assert sum(tokens[:: mmap.PAGESIZE]) == 64 * MIB // mmap.PAGESIZE
        mapped = device.process_memory_bytes()
    held = bytearray(b"\1") * (64 * MIB)
    written = device.process_memory_bytes()
    assert mapped - before < 8 * MIB
    assert 60 * MIB < written - mapped < 72 * MIB
    assert len(held) == 64 * MIB


def test_memory_is_summed_over_the_watched_processes_and_follows_the_live_list():
    device, pids = CpuDevice(), [os.getpid()]
    sensor = device.sensor("process_memory_bytes", pids)
    alone = sensor.read()
    with sleeper() as child:
        pids.append(child.pid)
        assert sensor.read() > alone + MIB


def test_of_processes_that_are_gone_nothing_is_said():
    with sleeper() as child:
        sensor = CpuDevice().sensor("process_memory_bytes", [child.pid])
        assert sensor.read() > 0
    assert math.isnan(sensor.read())


# processor seconds -----------------------------------------------------------------------------------------------


def test_processor_seconds_are_those_the_process_used():
    sensor = CpuDevice().sensor("processor_s", [os.getpid()])
    outer, before, inner = time.process_time(), sensor.read(), time.process_time()
    while time.process_time() - inner < 0.1:
        pass
    assert 0.1 <= sensor.read() - before <= time.process_time() - outer


def test_both_clocks_of_processor_seconds_agree():
    _, clock = process_clock()
    own = time.process_time()
    assert clock(os.getpid()) == pytest.approx(own, abs=0.05)
    assert clock(2**22 - 3) is None


def test_a_process_seen_later_counts_from_then_on_and_one_gone_keeps_what_it_used():
    used = {1: 100.0, 2: 50.0}
    pids = [1]
    seconds = ProcessorSeconds(pids, used.get)
    used[1] = 101.0
    assert seconds.read() == 1.0
    pids.append(2)
    assert seconds.read() == 1.0
    used[2] = 52.0
    del used[1]
    assert seconds.read() == 3.0
    used[1] = 0.5  # another process under an old number
    assert seconds.read() == 3.0
    used[1] = 0.75
    assert seconds.read() == 3.25


def test_the_machine_uses_at_least_what_this_process_uses():
    device = CpuDevice()
    machine, own = device.sensor("machine_processor_s", []), device.sensor("processor_s", [os.getpid()])
    machine_before, own_before = machine.read(), own.read()
    while own.read() - own_before < 0.2:
        pass
    assert machine.read() - machine_before > 0.1


def test_an_empty_proc_stat_is_absent_and_not_zero(tmp_path):
    device = CpuDevice(put(tmp_path, {"proc/stat": "cpu 0 0 0 0 0 0 0 0 0 0\n"}))
    with pytest.raises(SensorError, match="sandbox"):
        device.sensor("machine_processor_s", [])


def test_clock_and_temperature_are_read_where_the_system_tells_them(tmp_path):
    core = sorted(os.sched_getaffinity(0))[0]
    files = {f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": "2500000\n"}
    files |= {"sys/class/hwmon/hwmon0/name": "nvme\n", "sys/class/hwmon/hwmon0/temp1_input": "30000\n"}
    files |= {"sys/class/hwmon/hwmon1/name": "k10temp\n", "sys/class/hwmon/hwmon1/temp1_input": "61500\n"}
    device = CpuDevice(put(tmp_path, files))
    assert device.sensor("clock_hz", []).read() == 2.5e9
    temperature = device.sensor("temperature_c", [])
    assert temperature.read() == 61.5
    (tmp_path / "sys/class/hwmon/hwmon1/temp1_input").unlink()
    with pytest.raises(SensorError, match="can no longer be read"):
        temperature.read()


# energy ----------------------------------------------------------------------------------------------------------


def test_packages_are_summed_and_their_parts_and_twins_are_not(tmp_path):
    rapl_domain(tmp_path, "intel-rapl:0", "package-0", 100)
    rapl_domain(tmp_path, "intel-rapl:1", "package-1", 200)
    rapl_domain(tmp_path, "intel-rapl:0:0", "core", 1)
    rapl_domain(tmp_path, "intel-rapl:2", "psys", 1)
    rapl_domain(tmp_path, "intel-rapl-mmio:0", "package-0", 1)
    rapl = Rapl(tmp_path)
    for folder, counter in (("0", 3_100), ("1", 4_200), ("0:0", 999), ("2", 999)):
        (tmp_path / f"intel-rapl:{folder}/energy_uj").write_text(str(counter))
    (tmp_path / "intel-rapl-mmio:0/energy_uj").write_text("999")
    assert rapl.read_j() == pytest.approx(7_000e-6)
    assert "2 package(s)" in rapl.source()


def test_a_counter_that_wraps_around_goes_on_growing(tmp_path):
    root = rapl_domain(tmp_path / "sys/class/powercap", "intel-rapl:0", "package-0", 999_000, range_uj=1_000_000)
    sensor = CpuDevice(tmp_path).sensor("energy_j", [])
    seen = []
    for counter in (999_900, 400, 999_999, 5):
        (root / "intel-rapl:0/energy_uj").write_text(str(counter))
        seen.append(sensor.read())
    assert seen == pytest.approx([0.0009, 0.0014, 1.000999, 1.001005])
    assert sensor.cumulative


def test_a_counter_without_permission_is_absent_and_says_what_to_do():
    with tempfile.TemporaryDirectory() as folder:
        root = rapl_domain(folder, "intel-rapl:0", "package-0", 1)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        (root / "intel-rapl:0/energy_uj").chmod(0o000)
        with as_nobody(), pytest.raises(SensorError, match=r"chmod a\+r .*energy_uj"):
            Rapl(root)


def test_a_counter_that_vanishes_ends_with_its_reason(tmp_path):
    rapl = Rapl(rapl_domain(tmp_path, "intel-rapl:0", "package-0", 1))
    (tmp_path / "intel-rapl:0/energy_uj").unlink()
    with pytest.raises(SensorError, match="cannot be read"):
        rapl.read_j()


@contextlib.contextmanager
def sleeper():
    child = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"], stdin=-1, stdout=-1, text=True)
    try:
        child.stdout.readline()
        yield child
    finally:
        child.communicate("\n")


@contextlib.contextmanager
def as_nobody():
    """An administrator may read everything: step down for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
