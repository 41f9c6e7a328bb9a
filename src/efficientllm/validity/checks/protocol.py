"""What the protocol asks for is there: windows, series, marks in order, warm-up before what is timed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from efficientllm.records.measurement import Measurement
from efficientllm.records.protocol import INLINE, PROTOCOL_VERSION, PROTOCOLS, Protocol
from efficientllm.records.serve_settings import ServeSettings
from efficientllm.records.settings import InferenceSettings, UserSettings
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.records.window import ELSEWHERE, Window
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.submission import Submission

_TIMED = ("train", "prefill", "decode", "generate", "serve", "user")
_WARM = ("train", "prefill", "decode", "generate")
#: Workload -> windows that a record which ended as ok has.
_WINDOWS = {
    "pretrain": ("curve", "train", "quality"),
    "finetune": ("curve", "train", "quality"),
    "verify": ("verify",),
    "calibrate": ("calibrate",),
    "user": ("user",),
}
#: Of every timed window: a series of it, or why there is none. An energy may also be a reason.
_SAMPLED = ("process_memory_bytes", "energy_j")
#: Times are stored to a microsecond.
_RESOLUTION_S = 2e-6
#: A window is rank 0's, and other ranks open and close theirs a little before or after it.
_RANKS_APART_S = 1.0
#: At most this part of a training run is warm-up.
_WARM_UP_SHARE = 0.25


def _look(submission: Submission) -> Iterator[Fault]:
    told: dict[str, int] = {}
    for record in submission.records:
        measurement = record.measurement
        yield from (Fault(where=record.name, why=why) for why in _of_record(measurement))
        for window in measurement.windows:
            where = f"{record.name}: {window.label()}"
            yield from (Fault(where=where, why=why) for why in _of_window(measurement, window))
        for why in _worth_telling(measurement):
            told[why] = told.get(why, 0) + 1
    for why, count in told.items():
        yield Fault(where=submission.name, why=f"{count} of {len(submission.records)} records {why}", refused=False)


def _worth_telling(measurement: Measurement) -> Iterator[str]:
    version, protocol = measurement.trial.protocol_version, measurement.trial.protocol
    if version < PROTOCOL_VERSION:
        yield f"are of protocol version {version}, older than this software's {PROTOCOL_VERSION}"
    plain = _named().get(protocol.name)
    if plain is not None and plain != protocol:
        fields = Protocol.__struct_fields__
        changed = [f"{key} {getattr(protocol, key)}" for key in fields if getattr(protocol, key) != getattr(plain, key)]
        yield f"follow {protocol.name} with {', '.join(changed)}"
    if protocol.name == "smoke":
        yield "follow smoke, which covers and is never ranked"


def _named() -> Mapping[str, Protocol]:
    return {**PROTOCOLS, INLINE.name: INLINE}


def _of_record(measurement: Measurement) -> Iterator[str]:
    protocol, settings = measurement.trial.protocol, measurement.trial.settings
    if protocol.name not in _named():
        yield f"protocol {protocol.name!r} is none of {', '.join(_named())}"
    if (protocol.name == INLINE.name) != isinstance(settings, UserSettings):
        yield f"protocol {protocol.name} does not go with the workload {measurement.trial.settings_workload()}"
    for name, value in {**measurement.phases_s, **measurement.figures}.items():
        if not math.isfinite(value) or (name in measurement.phases_s and value < 0):
            yield f"{name} is {value}"
    yield from _nesting(measurement.windows)
    if measurement.outcome != "ok":
        return
    here = {(window.name, tuple(sorted(window.coordinates.items()))) for window in measurement.windows}
    names = {name for name, _ in here}
    for name in _WINDOWS.get(measurement.trial.settings_workload(), ()):
        if name not in names and name not in measurement.absent:
            yield f"is ok without its window {name!r}"
    for name, coordinates in _points(measurement):
        if (name, tuple(sorted(coordinates.items()))) not in here:
            yield f"is ok without its window {Window(name=name, coordinates=coordinates).label()!r}"
    warm = [window for window in measurement.windows if window.name in _WARM and window.outcome == "ok"]
    if warm and measurement.trial.settings_workload() != "verify" and not measurement.phases_s.get("warmup"):
        yield "has timed windows and no phase `warmup` before them"
    yield from _warm_up_steps(measurement)


def _points(measurement: Measurement) -> Iterator[tuple[str, dict[str, int]]]:
    settings = measurement.trial.settings
    if isinstance(settings, InferenceSettings):
        for name, grids in (
            ("prefill", settings.prefill),
            ("decode", settings.decode),
            ("generate", settings.generate),
        ):
            yield from ((name, grid.coordinates()) for grid in grids)
    elif isinstance(settings, ServeSettings):
        yield from (("serve", load.coordinates()) for load in settings.loads)


def _warm_up_steps(measurement: Measurement) -> Iterator[str]:
    """Of a training run the curve holds all steps, the measured segment only those after warm-up."""
    curve, train = measurement.find("curve"), measurement.find("train")
    if not isinstance(measurement.trial.settings, TrainingSettings) or curve is None or train is None:
        return
    loss, steps = curve.find("loss"), train.find("step_s")
    if loss is None or steps is None or "resumed_step" in measurement.figures:
        return
    since = sum(at_s > train.begin_s for at_s in loss.at_s)
    if since != len(steps.values) and train.outcome == "ok":
        yield f"{since} steps of the curve since its measured segment began, of which {len(steps.values)} were timed"
    least = min(measurement.trial.protocol.warmup_steps, int(_WARM_UP_SHARE * len(loss.values)))
    if len(loss.values) - len(steps.values) < least:
        yield f"{len(loss.values)} steps, {len(steps.values)} of them timed: fewer than {least} of warm-up"


def _nesting(windows: tuple[Window, ...]) -> Iterator[str]:
    """Windows follow each other, or one lies inside another."""
    for window in windows:
        if not (math.isfinite(window.begin_s) and 0 <= window.begin_s <= window.end_s < math.inf):
            yield f"window {window.label()} lasts from {window.begin_s} to {window.end_s} s"
    ordered = sorted(windows, key=lambda w: (w.begin_s, -w.end_s))
    for one, other in itertools.pairwise(ordered):
        if one.begin_s < other.begin_s < one.end_s - _RESOLUTION_S < other.end_s - 2 * _RESOLUTION_S:
            yield f"windows {one.label()} and {other.label()} overlap"


def _of_window(measurement: Measurement, window: Window) -> Iterator[str]:
    for series in window.series:
        edge_s = _RESOLUTION_S if series.rank == 0 else _RANKS_APART_S
        yield from (f"{series.name}: {why}" for why in _series(series.at_s, series.values, window, edge_s))
    for name, value in window.figures.items():
        if not math.isfinite(value):
            yield f"{name} is {value}"
    if window.outcome != "ok" or window.name not in _TIMED:
        return
    names, absent = {s.name for s in window.series if s.values}, {**measurement.absent, **window.absent}
    timed = "request_s" if window.name == "serve" else "step_s"
    if timed not in names and timed not in absent:
        yield f"is timed and has no {timed}"
    for name in _SAMPLED if ELSEWHERE not in window.absent else ():
        explained = name in absent or name in names or (name == "energy_j" and "energy_counter_j" in absent)
        if not explained:
            yield f"has neither {name} nor a reason why not"
    for rank in {s.rank for s in window.series if s.name == "step_s"}:
        steps = window.find("step_s", rank)
        before_s = window.begin_s if rank == 0 else 0.0
        for at_s, value in zip(steps.at_s, steps.values, strict=False) if steps else ():
            if at_s - value < before_s - _RESOLUTION_S:
                yield f"step_s: the step that ended at {at_s:.6f} s began before the one before it had ended"
                break
            before_s = at_s


def _series(at_s: tuple[float, ...], values: tuple[float, ...], window: Window, edge_s: float) -> Iterator[str]:
    if not all(map(math.isfinite, (*at_s, *values))):
        yield "holds what is no number"
    elif any(before > after for before, after in itertools.pairwise(at_s)):
        yield "its times do not ascend"
    elif at_s and not (window.begin_s - edge_s <= at_s[0] and at_s[-1] <= window.end_s + edge_s):
        reach = f"{window.begin_s:.3f} to {window.end_s:.3f}"
        yield f"reaches from {at_s[0]:.3f} to {at_s[-1]:.3f} s, the window from {reach}"


ENTRY = CheckEntry(title="measured as the protocol asks", order=50, look=_look)
