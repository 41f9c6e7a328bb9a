"""A wall or BMC meter's file: what a machine drew by somebody else's account, to bound the systematic error of ours.

    # scope: machine            machine (a wall plug, a BMC; the default) or device (a sensor in the card's supply)
    time,watts
    2026-11-25T10:00:00.0Z,412.5
    1795600801.25,413.0         ISO 8601 with its zone, or seconds since 1970

The file may grow while a study runs. Its clock is the machine's wall clock; the runner says how that lies to the
measurement's.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from efficientllm.errors import UserError
from efficientllm.meters.integrate import NotCovered, cut, integral, mean
from efficientllm.meters.samples import Samples
from efficientllm.records.series import Series

NAME = "external_power_w"
SCOPES = ("machine", "device")
NO_METER = "the systematic error of the device's own sensor is not bounded without an external meter (run --external)"

#: A logger may write a little later than it reads.
_LONGEST_LAG_S = 5.0
_LOOK_S = 0.2
#: A rise of our own power by less than this says nothing about a ratio.
_LEAST_RISE_W = 1.0


@dataclass(frozen=True)
class WallClock:
    """The wall clock beside `perf_counter`, read one after the other."""

    unix_s: float
    perf_s: float

    @classmethod
    def now(cls) -> WallClock:
        """Read both."""
        return cls(datetime.now(UTC).timestamp(), time.perf_counter())

    def text(self) -> str:
        """Return the time in UTC, to the second, for people."""
        return datetime.fromtimestamp(self.unix_s, UTC).isoformat(timespec="seconds")

    @property
    def offset_s(self) -> float:
        """What is taken off the wall clock to get `perf_counter`."""
        return self.unix_s - self.perf_s


@dataclass(frozen=True)
class ExternalMeter:
    """A meter's file.

    Attributes:
        path: where it is.
        scope: `machine` or `device`.
        at_unix_s, watts: its rows, ascending in time.
    """

    path: Path
    scope: str
    at_unix_s: tuple[float, ...]
    watts: tuple[float, ...]

    def series(self, begin: WallClock, end: WallClock) -> Series:
        """Return the rows on `perf_counter`'s clock; a wall clock that was set meanwhile is followed evenly."""
        elapsed_s = end.perf_s - begin.perf_s
        drift = (end.offset_s - begin.offset_s) / elapsed_s if elapsed_s > 0 else 0.0
        at_s = (at - begin.offset_s for at in self.at_unix_s)
        return Series(
            name=NAME,
            unit="w",
            at_s=tuple(at - drift * (at - begin.perf_s) for at in at_s),
            values=self.watts,
            source=f"file {self.path.name} (scope: {self.scope})",
        )


def read_meter(path: Path) -> ExternalMeter:
    """Read a meter's file; a last line without its end is still being written, and is left out.

    Raises:
        UserError: no such file, no row in it, or a line that cannot be understood, with its number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the external meter's file {path} cannot be read: {error}.") from error
    scope, rows = "machine", []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        where = f"{path}:{number}"
        if line.startswith("#"):
            scope = _scope(line, where) or scope
        elif line.strip() and not line.lower().replace(" ", "").startswith("time,"):
            rows.append(_row(line, where))
    if not rows:
        raise UserError(f"{path} holds no row `time,watts`. Start the meter's logging before the study.")
    back = next((i for i, (a, b) in enumerate(itertools.pairwise(rows)) if b[0] < a[0]), None)
    if back is not None:
        raise UserError(f"{path}: time runs backwards after row {back + 1}. Sort the file, or log in UTC.")
    return ExternalMeter(path, scope, tuple(at for at, _ in rows), tuple(watts for _, watts in rows))


def read_until(path: Path, until_unix_s: float) -> ExternalMeter:
    """Read a file that still grows, once it has come to a time, or a few seconds later as it is."""
    end_s = time.perf_counter() + _LONGEST_LAG_S
    meter = read_meter(path)
    while meter.at_unix_s[-1] < until_unix_s and time.perf_counter() < end_s:
        time.sleep(_LOOK_S)
        meter = read_meter(path)
    return meter


def with_external(samples: Samples, file: Path | None, begin: WallClock) -> Samples:
    """Add an external meter's readings to a sampler's; a file that broke meanwhile is absent with its reason."""
    if file is None:
        return samples
    end = WallClock.now()
    try:
        readings = read_until(file, end.unix_s).series(begin, end)
    except UserError as error:
        return replace(samples, absent={**samples.absent, NAME: str(error)})
    return replace(samples, series={**samples.series, NAME: readings})


def external_figures(
    external: Series,
    begin_s: float,
    end_s: float,
    *,
    own_w: float,
    own_idle_w: float | None,
    external_idle_w: float | None,
) -> dict[str, float]:
    """Return `external_energy_j` and `energy_systematic_bound_ratio`, how far our energy may be off at most.

    A meter of the device itself is compared as it stands. A meter of the whole machine sees the device's rise above
    idle and whatever else rose with it (processor, fans, losses of the supply): its rise over ours, minus 1, is what
    ours may have missed at most. A negative ratio is no bound but a contradiction: ours read more than the whole did.

    Args:
        external: the meter's readings.
        begin_s: the window's begin.
        end_s: the window's end.
        own_w: our mean power of the window.
        own_idle_w: our idle power, None if it was not measured; a meter of the device needs none.
        external_idle_w: the meter's mean over the same idle time, None if it saw none.

    Raises:
        NotCovered: fewer than two readings inside, or no rise to compare.
    """
    if len(cut(external, begin_s, end_s).values) < 2:
        raise NotCovered("the external meter has fewer than two readings inside this window: measure longer")
    figures = {"external_energy_j": integral(external, begin_s, end_s)}
    seen_w = mean(external, begin_s, end_s)
    if external.source.endswith("(scope: device)"):
        return figures | {"energy_systematic_bound_ratio": seen_w / own_w - 1}
    if own_idle_w is None:
        raise NotCovered("idle power was not measured before the window")
    if external_idle_w is None:
        raise NotCovered("the external meter did not see the device idle")
    if own_w - own_idle_w < _LEAST_RISE_W:
        raise NotCovered("power did not rise above idle, so there is no rise to compare with the external meter's")
    return figures | {"energy_systematic_bound_ratio": (seen_w - external_idle_w) / (own_w - own_idle_w) - 1}


def _scope(comment: str, where: str) -> str:
    key, _, value = comment.lstrip("# ").partition(":")
    if key.strip().lower() != "scope":
        return ""
    if value.strip() not in SCOPES:
        raise UserError(f"{where}: scope {value.strip()!r} is none of {', '.join(SCOPES)}.")
    return value.strip()


def _row(line: str, where: str) -> tuple[float, float]:
    stamp, _, watts = (part.strip() for part in line.partition(","))
    try:
        return _unix_s(stamp), float(watts)
    except ValueError as error:
        raise UserError(f"{where}: {line!r} is no row `time,watts` ({error}).") from error


def _unix_s(stamp: str) -> float:
    try:
        return float(stamp)
    except ValueError:
        at = datetime.fromisoformat(stamp)
    if at.tzinfo is None:
        raise ValueError("a time of day needs its zone, such as Z or +01:00")
    return at.timestamp()
