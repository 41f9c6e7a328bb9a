"""Several attempts at one trial in one environment: which one stands, and whether another is to be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from efficientllm.records.measurement import Measurement

#: How many crashes of one trial in one environment, from the same step on, are enough.
MOST_CRASHES = 2
_FINAL = frozenset({"ok", "oom", "unsupported", "invalid", "diverged"})


def attempt_of(measurement: Measurement) -> int:
    """Return the attempt that a measurement's id ends with; 0 where it ends with no number.

    >>> from efficientllm.records.examples import example_measurement
    >>> attempt_of(example_measurement())
    0
    """
    tail = measurement.id.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else 0


def standing(attempts: Sequence[Measurement]) -> Measurement | None:
    """Return the attempt that makes another one needless, or None if the trial is to be run (again).

    Done is what ended as ok, oom, unsupported, invalid or diverged: of several the first, so that a later one never
    changes a table. Done is also what crashed twice. What was interrupted is run again, what crashed, once more; one
    that went on from a checkpoint and crashed begins elsewhere than the one before, so that it counts by itself.

    Args:
        attempts: of one trial in one environment.
    """
    ordered = sorted(attempts, key=attempt_of)
    final = [measurement for measurement in ordered if measurement.outcome in _FINAL]
    crashed = [measurement for measurement in ordered if measurement.outcome == "crashed"]
    if final:
        return final[0]
    begun_at = Counter(measurement.figures.get("resumed_step", 0.0) for measurement in crashed)
    return crashed[-1] if any(count >= MOST_CRASHES for count in begun_at.values()) else None


def counted(measurements: Iterable[Measurement]) -> tuple[list[Measurement], list[Measurement]]:
    """Split measurements into those that count and those that another attempt stands for.

    One a trial and environment counts: the one that stands, else the last. Both lists keep the given order.
    """
    attempts: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        attempts.setdefault((measurement.trial.id, measurement.environment.id), []).append(measurement)
    chosen = {(standing(group) or max(group, key=attempt_of)).id for group in attempts.values()}
    given = [measurement for group in attempts.values() for measurement in group]
    return (
        [measurement for measurement in given if measurement.id in chosen],
        [measurement for measurement in given if measurement.id not in chosen],
    )
