"""By what a process is known again: its series of times, whatever they were multiplied by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from efficientllm.records.measurement import Measurement

#: Series of times: two processes never have the same ones.
_TIMES = ("step_s", "request_s")
#: Fewer values may agree by chance.
_LEAST_VALUES = 4

#: Each value over the first, to nine digits.
Shape = tuple[float, ...]


def fingerprints(measurement: Measurement) -> Iterator[tuple[Shape, str]]:
    """Yield the shape of each series of times and where it stands; a script's, of equal values, is none."""
    for window in measurement.windows:
        for series in window.series:
            first = series.values[0] if series.values else 0.0
            if series.name not in _TIMES or len(series.values) < _LEAST_VALUES or not first:
                continue
            if any(value != first for value in series.values):
                shape = tuple(round(value / first, 9) for value in series.values)
                yield shape, f"{window.label()}: {series.name}"


def shared(submissions: Mapping[str, Sequence[Measurement]]) -> dict[str, tuple[str, ...]]:
    """Return submission -> the others that hold a process of it too, for those that share any."""
    owners: dict[Shape, dict[str, None]] = {}
    for name, measurements in submissions.items():
        for measurement in measurements:
            for shape, _ in fingerprints(measurement):
                owners.setdefault(shape, {})[name] = None
    found: dict[str, dict[str, None]] = {}
    for names in owners.values():
        for name in names if len(names) > 1 else ():
            found.setdefault(name, {}).update(dict.fromkeys(other for other in names if other != name))
    return {name: tuple(others) for name, others in found.items()}
