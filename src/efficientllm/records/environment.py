"""Where something was measured, and its identity."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

#: Libraries under every trial; the others are loaded by some techniques only and must not part a table.
_SHARED_LIBRARIES = ("torch", "triton")


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One device, as the driver or the operating system names it.

    Attributes:
        kind: `cpu`, `cuda` or `fake`.
        uuid: the driver's identifier; for a CPU a hash of model and machine id, so that two machines differ.
        capacity_bytes: memory that the device has in all.
        power_cap_w: enforced power limit, None where it is not told.
        cores: processor cores this process may use, or multiprocessors.
        last_level_cache_bytes: 0 where it is not told.
    """

    kind: str
    name: str
    uuid: str
    driver: str = ""
    capacity_bytes: int = 0
    power_cap_w: float | None = None
    cores: int = 0
    last_level_cache_bytes: int = 0


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the code of a measurement.

    `machine_id` is a hash of the devices and of what all trials share (Python, torch, threads): measurements compare
    within one machine id. `id` adds the other libraries and the digest of the measuring code that the trial loads: a
    trial is measured again when these change.
    """

    id: str
    machine_id: str
    devices: tuple[DeviceInfo, ...]
    python: str
    platform: str
    libraries: dict[str, str]
    code_digest: str
    threads: int = 0
    git_commit: str = ""
    git_dirty: bool = False
    host: str = ""


def make_environment(
    *,
    devices: tuple[DeviceInfo, ...],
    python: str,
    platform: str,
    libraries: dict[str, str],
    code_digest: str,
    threads: int = 0,
    git_commit: str = "",
    git_dirty: bool = False,
    host: str = "",
) -> Environment:
    """Build an environment with its two ids; git state and host name are recorded beside them, not hashed."""
    id_, machine_id = environment_digests(
        {
            "devices": msgspec.to_builtins(devices),
            "python": python,
            "platform": platform,
            "libraries": libraries,
            "threads": threads,
            "code_digest": code_digest,
        }
    )
    return Environment(
        id=id_,
        machine_id=machine_id,
        devices=devices,
        python=python,
        platform=platform,
        libraries=libraries,
        code_digest=code_digest,
        threads=threads,
        git_commit=git_commit,
        git_dirty=git_dirty,
        host=host,
    )


def environment_digests(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return an environment's id and machine id from its fields as they are stored, by name.

    Raises:
        KeyError: a field is missing.
    """
    shared = {name: version for name, version in fields["libraries"].items() if name in _SHARED_LIBRARIES}
    machine_id = _digest([fields["devices"], fields["python"], fields["platform"], shared, fields["threads"]])
    return _digest([machine_id, fields["libraries"], fields["code_digest"]]), machine_id


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
