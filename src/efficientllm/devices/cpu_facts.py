"""What a processor is: its name, its identity, the cores and the memory that this process may use.

Linux says it in files under /proc and /sys, given as `root` so that another machine's files can be read too;
macOS and Windows through the standard library and psutil. What is not told is 0 or a general name, never an error.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

from efficientllm.records.environment import DeviceInfo

_GIB = 1024**3


def cpu_info(root: Path = Path("/")) -> DeviceInfo:
    """Return the processor as a device.

    The capacity is rounded to whole GiB: the kernel keeps a little back, and how much differs between boots of one
    machine, whose records would then no longer compare.
    """
    name = model_name(root)
    capacity = memory_bytes(root)
    return DeviceInfo(
        kind="cpu",
        name=name,
        uuid="cpu-" + hashlib.sha256(f"efficientllm/{name}/{machine_id(root)}".encode()).hexdigest()[:16],
        driver=platform.system().lower(),
        capacity_bytes=round(capacity / _GIB) * _GIB or capacity,
        cores=usable_cores(root),
        last_level_cache_bytes=last_level_cache_bytes(root),
    )


def model_name(root: Path = Path("/")) -> str:
    """Return the processor's model, for example `AMD EPYC 7763 64-Core Processor`."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model") and value.strip():
            return value.strip()
    if sys.platform == "darwin":
        said = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
        if said:
            return said
    return platform.processor() or platform.machine() or "unknown processor"


def machine_id(root: Path = Path("/")) -> str:
    """Return what tells this machine from others; it is hashed before it enters a record."""
    for place in ("etc/machine-id", "var/lib/dbus/machine-id"):
        said = _text(root / place).strip()
        if said:
            return said
    if sys.platform == "darwin":
        for line in _output(["ioreg", "-rd1", "-c", "IOPlatformExpertDevice"]).splitlines():
            if "IOPlatformUUID" in line:
                return line.rpartition("=")[2].strip(' "')
    if sys.platform == "win32":
        return _windows_machine_guid()
    return platform.node()


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many processor cores this process may use: its affinity, limited by the control group's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_cores(root)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory this process may use: the machine's, or the control group's limit where it is lower."""
    machine = _meminfo_bytes(root).get("MemTotal", 0) or _psutil_memory_bytes()
    limits = [_text(root / f"sys/fs/cgroup/{n}").strip() for n in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([machine, *(int(limit) for limit in limits if limit.isdigit())])


def last_level_cache_bytes(root: Path = Path("/")) -> int:
    """Return the size of the outermost cache, 0 where it is not told.

    A virtual machine is often told its host's whole cache, of which it owns a part.
    """
    found = [(0, 0)]
    for folder in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, size = _text(folder / "level").strip(), _text(folder / "size").strip()
        if level.isdigit() and size:
            found.append((int(level), _with_suffix(size)))
    if found == [(0, 0)] and sys.platform == "darwin":
        said = _output(["sysctl", "-n", "hw.l3cachesize"]) or _output(["sysctl", "-n", "hw.l2cachesize"])
        return int(said) if said.isdigit() else 0
    return max(found)[1]


def _meminfo_bytes(root: Path = Path("/")) -> dict[str, int]:
    """Return /proc/meminfo in bytes, empty where there is none."""
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) == 3}


def _quota_cores(root: Path) -> float:
    """Cores' worth of time that a control group grants a period, 0 for no limit."""
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not quota:
        quota = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        period = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else 0.0


def _with_suffix(size: str) -> int:
    factor = {"K": 1024, "M": 1024**2, "G": _GIB}.get(size[-1], 1)
    digits = size.rstrip("KMG")
    return int(digits) * factor if digits.isdigit() else 0


def _psutil_memory_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _windows_machine_guid() -> str:
    said = _output(["reg", "query", r"HKLM\SOFTWARE\Microsoft\Cryptography", "/v", "MachineGuid"])
    return said.split()[-1] if said else platform.node()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # every caller has a next place to look


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
