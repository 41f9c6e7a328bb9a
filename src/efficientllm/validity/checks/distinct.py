"""Each record is a process of its own: no raw series stands twice, and no two ran at once on one device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

from efficientllm.records.measurement import Measurement
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.fingerprint import Shape, fingerprints
from efficientllm.validity.submission import Submission

#: Start times are told in whole seconds.
_SLACK_S = 1.1


def _look(submission: Submission) -> Iterator[Fault]:
    yield from _copies(submission)
    yield from _overlaps(submission)


def _copies(submission: Submission) -> Iterator[Fault]:
    """Yield series that another record has too, as it is or with every value multiplied by the same number."""
    seen: dict[Shape, tuple[str, str]] = {}
    for record in submission.records:
        for shape, place in fingerprints(record.measurement):
            other = seen.setdefault(shape, (record.name, place))
            if other != (record.name, place):
                yield Fault(where=f"{record.name}: {place}", why=f"is the series of {other[0]}: {other[1]}")


def _overlaps(submission: Submission) -> Iterator[Fault]:
    spans: dict[str, list[tuple[float, float, Measurement]]] = {}
    for record in submission.records:
        measurement = record.measurement
        begin_s = _start(measurement)
        if begin_s is None:
            if measurement.windows:
                why = f"started at {measurement.started_at!r}, which is no time"
                yield Fault(where=record.name, why=why)
            continue
        lasted_s = max((window.end_s for window in measurement.windows), default=0.0)
        end_s = begin_s + measurement.phases_s.get("cool_down", 0.0) + lasted_s
        for device in measurement.environment.devices if measurement.windows else ():
            spans.setdefault(device.uuid, []).append((begin_s, end_s, measurement))
    for of_device in spans.values():
        of_device.sort(key=lambda span: span[:2])
        for (_, end_s, before), (begin_s, _, after) in itertools.pairwise(of_device):
            if end_s - begin_s > _SLACK_S:
                inline = "inline" in (before.trial.protocol.name, after.trial.protocol.name)
                why = f"began {end_s - begin_s:.0f} s before {before.id} had ended on the same device"
                yield Fault(where=after.id, why=why, refused=not inline)


def _start(measurement: Measurement) -> float | None:
    """Return when a record's process was started, in seconds of UTC."""
    try:
        started = datetime.fromisoformat(measurement.started_at)
        return (started if started.tzinfo else started.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


ENTRY = CheckEntry(title="each record is a process of its own", order=60, look=_look)
