"""Step time, memory and power of a trial over time, with what it was doing, thinned to what a screen can show.

The page holds outlines; the record holds all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from efficientllm.analysis.select import select
from efficientllm.physics.suspicion import THROTTLE_BITS
from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window
from efficientllm.report.stretches import Line, Stretch, drawn, spans, stretches

#: So many trials are on the page, of each technique its first repeats; so many points has a panel of one.
MOST_TRIALS, MOST_POINTS = 60, 300
_MOST_MARKS = 20
_NO_STEPS = "no step was timed"


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity over time.

    Attributes:
        title, unit: for the axis; `source`: what read it.
        lines: one for each rank and device that told it.
        absent: why there is none.
        whole: how many values the record holds.
    """

    title: str
    unit: str
    source: str = ""
    lines: tuple[Line, ...] = ()
    absent: str = ""
    whole: int = 0


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A window of the trial: from when to when (ms from the timeline's begin), its name, its cautions."""

    begin: int
    end: int
    text: str
    cautions: tuple[str, ...] = ()


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """One trial.

    Attributes:
        id: of its record; stage, technique, repeat, outcome: whose it is, and how it ended.
        begin_s, end_s: the span drawn, on the measurement's clock.
        phases_s: seconds that passed before, by name.
        marks: instants (ms from `begin_s`) at which something was seen, each with what.
        cautions: those of no window.
    """

    id: str
    stage: str
    technique: str
    repeat: int
    outcome: str
    begin_s: float
    end_s: float
    panels: tuple[Panel, ...]
    bands: tuple[Band, ...]
    phases_s: dict[str, float] = {}
    marks: tuple[tuple[int, str], ...] = ()
    cautions: tuple[str, ...] = ()


def timelines(measurements: Sequence[Measurement], most: int = MOST_TRIALS) -> list[Timeline]:
    """Return the timelines of the records that stand for their trials, at most so many: first repeats go first."""
    records = [record for record in select(measurements).records if any(_lasts(w) for w in record.windows)]
    kept = {record.id for record in sorted(records, key=lambda record: record.trial.repeat)[:most]}
    return [timeline(record) for record in records if record.id in kept]


def timeline(record: Measurement, points: int = MOST_POINTS) -> Timeline:
    """Return a record's timeline; a panel has about so many points at most."""
    windows = sorted((w for w in record.windows if _lasts(w)), key=lambda w: (w.begin_s, -w.end_s))
    begin_s, end_s = windows[0].begin_s, max(window.end_s for window in windows)
    trial = record.trial
    places = spans(windows)
    bands = _bands(record, windows, begin_s)
    said = {caution for band in bands for caution in band.cautions}
    return Timeline(
        id=record.id,
        stage=trial.stage or trial.settings_workload(),
        technique=trial.technique(),
        repeat=trial.repeat,
        outcome=record.outcome,
        begin_s=round(begin_s, 3),
        end_s=round(end_s, 3),
        panels=(
            _panel("step time", "s", stretches(windows, places, ("step_s",)), begin_s, points, _NO_STEPS),
            _panel("memory", "bytes", stretches(windows, places, ("process_memory_bytes", "device_memory_bytes")),
                   begin_s, points, record.absent.get("process_memory_bytes", "no memory was read")),
            _panel("power", "w", _power(windows, places), begin_s, points,
                   record.absent.get("power_w", "no power was read")),
        ),
        bands=tuple(bands),
        phases_s={name: round(value, 3) for name, value in record.phases_s.items() if value >= 0.0005},
        marks=tuple(_marks(record, windows, begin_s)),
        cautions=tuple(c.text for c in record.cautions if c.text not in said),
    )  # fmt: skip


def _lasts(window: Window) -> bool:
    return window.end_s > window.begin_s


def _panel(title: str, unit: str, found: Sequence[Stretch], begin_s: float, points: int, absent: str) -> Panel:
    lines = drawn(found, begin_s, points)
    if not lines:
        return Panel(title=title, unit=unit, absent=absent)
    return Panel(title=title, unit=unit, source=found[0].source, lines=lines, whole=sum(len(s.at_s) for s in found))


def _power(windows: Sequence[Window], places: Sequence[tuple[float, float]]) -> list[Stretch]:
    """Return the power read, the instant one before an average; else the mean between readings of the energy."""
    read = stretches(windows, places, ("power_instant_w", "power_w"))
    counted = [] if read else stretches(windows, places, ("energy_j",))
    return read or [rate for stretch in counted if (rate := _rate(stretch)) is not None]


def _rate(energy: Stretch) -> Stretch | None:
    """Return the mean power between readings of an energy counter, at the later of each two."""
    pairs = list(pairwise(zip(energy.at_s, energy.values, strict=True)))
    known = [(later, (high - low) / (later - earlier)) for (earlier, low), (later, high) in pairs if later > earlier]
    if not known:
        return None
    return Stretch(
        rank=energy.rank,
        device=energy.device,
        source=f"{energy.source}, over the time between readings",
        at_s=[at for at, _ in known],
        values=[value for _, value in known],
    )


def _bands(record: Measurement, windows: Sequence[Window], begin_s: float) -> list[Band]:
    """Return the windows as bands; of a curve what comes before its measured steps, which is their warm-up."""
    train = next((window for window in windows if window.name == "train"), None)
    found = []
    for window in windows:
        end_s, text = window.end_s, band_text(window)
        if window.name == "curve" and train is not None:
            end_s, text = train.begin_s, "warm-up"
        if end_s > window.begin_s:
            own = tuple(c.text for c in record.cautions if c.text.startswith(f"{window.label()}: "))
            begin, end = round(1e3 * (window.begin_s - begin_s)), round(1e3 * (end_s - begin_s))
            found.append(Band(begin=begin, end=end, text=text, cautions=own))
    return found


def band_text(window: Window) -> str:
    """Write a window's name for a band.

    >>> band_text(Window(name="decode", coordinates={"batch": 1, "tokens": 8192})), band_text(Window(name="train"))
    ('decode 1 × 8192', 'train')
    """
    point = " × ".join(str(value) for value in window.coordinates.values())
    return f"{window.name.replace('_', ' ')} {point}".strip()


def _marks(record: Measurement, windows: Sequence[Window], begin_s: float) -> list[tuple[int, str]]:
    """Return when the device said that it was held back or shared, where the record cautions of that."""
    codes = {caution.code for caution in record.cautions}
    found: dict[int, str] = {}
    for window in windows:
        throttled = window.find("throttle_reasons") if "throttled" in codes else None
        foreign = window.find("num_foreign_processes") if "foreign_process" in codes else None
        for at, value in _readings(throttled):
            names = sorted({name for bit, name in THROTTLE_BITS.items() if int(value) & bit})
            if names:
                found[round(1e3 * (at - begin_s))] = f"throttled: {', '.join(names)}"
        for at, value in _readings(foreign):
            if value > 0:
                found.setdefault(round(1e3 * (at - begin_s)), f"{value:.0f} other processes on the device")
    every = -(-len(found) // _MOST_MARKS) if found else 1
    return sorted(found.items())[::every]


def _readings(series: Series | None) -> list[tuple[float, float]]:
    return list(zip(series.at_s, series.values, strict=True)) if series else []
