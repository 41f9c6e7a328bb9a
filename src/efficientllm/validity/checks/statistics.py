"""Every derived figure that the stored series give is recomputed, and repeats of one technique did the same work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from efficientllm.records.measurement import Measurement
from efficientllm.validity import joules, sampled, told
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.bounds import Bounds
from efficientllm.validity.submission import Record, Submission


def _look(submission: Submission) -> Iterator[Fault]:
    for record in submission.records:
        measurement = record.measurement
        yield from _held(record.name, measurement.figures, told.of_record(measurement))
        for window in measurement.windows:
            where = f"{record.name}: {window.label()}"
            expected = (*sampled.expected(measurement, window), *told.of_window(window))
            yield from _held(where, window.figures, expected)
            for name, given in joules.wrong_energy(measurement, window):
                yield _fault(where, name, window.figures.get(name), given)
    yield from _same_work(submission.records)


def _held(where: str, figures: Mapping[str, float], expected: Iterable[tuple[str, Bounds]]) -> Iterator[Fault]:
    for name, bounds in expected:
        value = figures.get(name)
        if value is not None and not bounds.holds(value):
            yield _fault(where, name, value, bounds.text())


def _fault(where: str, name: str, value: float | None, given: str) -> Fault:
    said = "nothing" if value is None else f"{value:.6g}"
    return Fault(where=where, why=f"{name} is told as {said}, its series give {given}")


def _same_work(records: Iterable[Record]) -> Iterator[Fault]:
    """A technique's repeats in one environment differ in their seed, not in their model, data or work."""
    first: dict[bytes, Record] = {}
    for record in records:
        measurement = record.measurement
        if measurement.outcome != "ok":
            continue
        trial = measurement.trial
        settings = msgspec.json.encode([trial.settings, trial.protocol, measurement.environment.id, trial.axes])
        other = first.setdefault(settings, record)
        differing = "" if other is record else _differing(other.measurement, measurement)
        if differing:
            yield Fault(where=record.name, why=f"{differing} is not that of {other.name}, a repeat of the same")


def _differing(one: Measurement, other: Measurement) -> str:
    for name in ("model", "cards"):
        if getattr(one, name) != getattr(other, name):
            return f"its {name}"
    if _text(one) != _text(other):
        return "its data"
    works = {window.label(): window.work for window in one.windows}
    for window in other.windows:
        if window.label() in works and works[window.label()] != window.work:
            return f"the work of {window.label()}"
    return ""


def _text(measurement: Measurement) -> object:
    """Return the text's identity; details name the parent's own files too."""
    return msgspec.structs.replace(measurement.data, details={}) if measurement.data else None


ENTRY = CheckEntry(title="figures follow from their series", order=80, look=_look)
