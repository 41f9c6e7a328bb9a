"""Finds out where a trial runs: the environment of a record."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata

import psutil

from efficientllm import catalog
from efficientllm.devices._contract import Device
from efficientllm.records.environment import DeviceInfo, Environment, make_environment

#: Libraries whose version can move a measured value; those that are not installed are left out.
_LIBRARIES = (
    "torch",
    "triton",
    "transformers",
    "peft",
    "torchao",
    "tokenizers",
    "safetensors",
    "numpy",
    "fla-core",
    "flash-linear-attention",
    "tilelang",
)


def probe_environment(device: Device, code_digest: str, threads: int, others: Sequence[DeviceInfo] = ()) -> Environment:
    """Describe this machine and this code, without importing torch; `others` are further devices of a trial."""
    commit, dirty = _git()
    return make_environment(
        devices=(device.info(), *others),
        python=platform.python_version(),
        platform=_platform(),
        libraries=_versions(),
        code_digest=code_digest,
        threads=threads,
        git_commit=commit,
        git_dirty=dirty,
        host=platform.node(),
    )


def host_threads() -> int:
    """Return how many threads a worker uses: physical cores, but no more than this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _platform() -> str:
    return f"{platform.system()}-{platform.machine()}".lower()


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _git() -> tuple[str, bool]:
    """Return commit and dirty flag of the checkout that this package runs from; empty outside one."""
    try:
        _git_words("ls-files", "--error-unmatch", "__init__.py")  # else the checkout around us is not ours
        commit = _git_words("rev-parse", "HEAD")
        return commit, bool(_git_words("status", "--porcelain", "--untracked-files=no", "--", "."))
    except (OSError, subprocess.SubprocessError):
        return "", False


def _git_words(*words: str) -> str:
    command = ["git", "-C", str(catalog.PACKAGE), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
