"""What a processor's operating system says while something runs: memory, processor seconds, clock, temperature."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from efficientllm.devices._contract import SensorError

_CORES_READ = 16  # a clock is read by interrupting its core: some are enough


class ProcessorSeconds:
    """Processor seconds of processes since each was first seen; one that ends keeps what it used.

    Args:
        pids: the watched processes, a live collection.
        clock: pid -> processor seconds so far, or None if the process is gone.
    """

    def __init__(self, pids: Collection[int], clock: Callable[[int], float | None]) -> None:
        self._pids, self._clock = pids, clock
        self._last_s: dict[int, float] = {}
        self._total_s = 0.0
        self.read()

    def read(self) -> float:
        """Return the sum so far, in seconds; it never falls."""
        for pid in tuple(self._pids):
            now_s = self._clock(pid)
            if now_s is not None:
                # a smaller value is another process under an old number
                self._total_s += max(0.0, now_s - self._last_s.get(pid, now_s))
                self._last_s[pid] = now_s
        return self._total_s


def process_clock() -> tuple[str, Callable[[int], float | None]]:
    """Return the finest clock of a process's processor seconds that this system has, and its name."""
    try:
        time.clock_gettime(_linux_clock_id(os.getpid()))
    except (AttributeError, OSError):
        return "psutil.cpu_times", _psutil_seconds
    return "linux.process_cputime_clock", _linux_seconds


def anonymous_bytes(pids: Collection[int], root: Path) -> float:
    """Return the anonymous resident bytes of processes, NaN when all of them are gone.

    Mapped files (token files, libraries) are left out: the kernel may drop and reload them at any time.
    """
    told = [_rss_anon_bytes(f"{root}/proc/{pid}/status") for pid in tuple(pids)]
    known = [value for value in told if value is not None]
    return float(sum(known)) if known else math.nan


def unique_bytes(pids: Collection[int]) -> float:
    """Return psutil's unique set size of processes, NaN when all of them are gone; for systems without /proc."""
    import psutil

    known = []
    for pid in tuple(pids):
        try:
            known.append(float(psutil.Process(pid).memory_full_info().uss))
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            raise SensorError(f"memory of process {pid} may not be read by this user") from error
    return sum(known) if known else math.nan


def used_machine_bytes(root: Path) -> float:
    """Return the memory that everybody holds: all minus what is available."""
    head = _head(f"{root}/proc/meminfo")
    if b"MemTotal:" in head and b"MemAvailable:" in head:
        return float(_kibibytes(head, b"MemTotal:") - _kibibytes(head, b"MemAvailable:")) * 1024
    import psutil

    memory = psutil.virtual_memory()
    return float(memory.total - memory.available)


def machine_seconds(root: Path) -> tuple[float, float]:
    """Return the processor seconds of everybody and those that a hypervisor took away, since boot.

    Raises:
        SensorError: the system does not tell them.
    """
    first = _head(f"{root}/proc/stat").partition(b"\n")[0].split()
    if len(first) < 9 or not any(int(field) for field in first[1:9]):
        raise SensorError("no processor time of the whole machine: /proc/stat is empty here, as in some sandboxes")
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in first[1:9])
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) * tick_s, steal * tick_s


def clock_reader(root: Path) -> Callable[[], float]:
    """Return a reader of the mean clock over some of the cores, in Hz.

    Raises:
        SensorError: the system does not tell the clock; /proc/cpuinfo of a virtual machine says a nominal one.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    files = [root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq" for core in cores]
    files = [file for file in files if file.is_file()][:_CORES_READ]
    if not files:
        raise SensorError("no processor clock: the system has no cpufreq (virtual machines seldom do)")
    return lambda: 1000.0 * sum(_int_of(file, "processor clock") for file in files) / len(files)


def temperature_reader(root: Path) -> Callable[[], float]:
    """Return a reader of the processor's temperature in °C.

    Raises:
        SensorError: no temperature sensor of a processor is told here.
    """
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name, file = folder / "name", folder / "temp1_input"
        if name.is_file() and name.read_text().strip() in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            return lambda: _int_of(file, "temperature") / 1000.0
    raise SensorError("no temperature: the system has no processor sensor (virtual machines seldom do)")


def _int_of(file: Path, what: str) -> int:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise SensorError(f"{what} can no longer be read from {file}: {error}") from error


def _rss_anon_bytes(status: str) -> int | None:
    """Return the anonymous resident bytes; None for a process that is gone, or a zombie, which holds nothing."""
    said = _head(status)
    return _kibibytes(said, b"RssAnon:") * 1024 if b"RssAnon:" in said else None


def _head(path: str) -> bytes:
    """Return the first 4 KiB of a file of /proc, empty if it is gone; read plainly, for it happens at every tick."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(file, 4096)
    except OSError:  # the process ended between the two calls
        return b""
    finally:
        os.close(file)


def _kibibytes(text: bytes, key: bytes) -> int:
    """Return the number after a key.

    >>> _kibibytes(b"MemTotal:  24684084 kB", b"MemTotal:")
    24684084
    """
    return int(text[text.index(key) + len(key) :].split(None, 1)[0])


def _linux_clock_id(pid: int) -> int:
    """Return the kernel's clock of a process's processor time (clock_getcpuclockid(3)), to the nanosecond."""
    return (~pid << 3) | 2


def _linux_seconds(pid: int) -> float | None:
    try:
        return time.clock_gettime(_linux_clock_id(pid))
    except OSError:
        return None


def _psutil_seconds(pid: int) -> float | None:
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise SensorError(f"processor time of process {pid} may not be read by this user") from error
    return float(times.user + times.system)
