"""The energy counters of a processor (RAPL), read through Linux' /sys/class/powercap."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from efficientllm.devices._contract import SensorError

POWERCAP = Path("/sys/class/powercap")


@dataclass
class _Domain:
    """One package's counter: microjoules that wrap around at `range_uj`."""

    counter: Path
    range_uj: int
    last_uj: int

    def advance_uj(self) -> int:
        """Return the microjoules since the last call, across at most one wrap-around."""
        now_uj = _read_int(self.counter)
        step_uj = now_uj - self.last_uj
        self.last_uj = now_uj
        return step_uj if step_uj >= 0 else step_uj + self.range_uj


@dataclass
class Rapl:
    """The package domains of a machine as one counter that starts at 0 and never wraps.

    Sub-domains (core, memory) lie inside or beside a package and are left out, as is the `intel-rapl-mmio` twin of
    the same package: both would be counted twice. The figure is the whole processor's, not the process's.

    Raises:
        SensorError: there is no package domain here, or this user may not read it.
    """

    root: Path = POWERCAP
    _domains: list[_Domain] = field(init=False)
    _total_uj: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._domains = [_open_domain(folder) for folder in _package_folders(self.root)]
        if not self._domains:
            raise SensorError(f"no energy counter: {self.root} has no RAPL domain on this machine")

    def source(self) -> str:
        """Return what is read, with its scope."""
        return f"rapl, {len(self._domains)} package(s) (scope: whole processor)"

    def read_j(self) -> float:
        """Return the joules of all packages since this object was made.

        Raises:
            SensorError: a counter can no longer be read.
        """
        self._total_uj += sum(domain.advance_uj() for domain in self._domains)
        return self._total_uj / 1e6


def _package_folders(root: Path) -> list[Path]:
    folders = sorted(root.glob("intel-rapl:*")) if root.is_dir() else []
    return [f for f in folders if _read_text(f / "name").startswith("package")]


def _open_domain(folder: Path) -> _Domain:
    counter = folder / "energy_uj"
    return _Domain(counter, _read_int(folder / "max_energy_range_uj"), _read_int(counter))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise SensorError(
            f"no energy counter: {path} may not be read by this user; an administrator can allow it with "
            f"`chmod a+r {path}`"
        ) from error
    except OSError as error:
        raise SensorError(f"no energy counter: {path} cannot be read: {error.strerror}") from error


def _read_int(path: Path) -> int:
    text = _read_text(path)
    if not text.isdigit():
        raise SensorError(f"no energy counter: {path} holds {text!r}, not a count of microjoules")
    return int(text)
