"""Every file can be read, and is of a form that this software knows."""

from __future__ import annotations

from collections.abc import Iterator

from efficientllm.records.measurement import OUTCOMES, SCHEMA_VERSION
from efficientllm.records.protocol import PROTOCOL_VERSION
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.submission import Submission


def _look(submission: Submission) -> Iterator[Fault]:
    for file, why in submission.unreadable.items():
        yield Fault(where=file, why=why)
    if not submission.records and not submission.unreadable:
        yield Fault(where=submission.name, why="holds no measurement")
    older: dict[int, int] = {}
    for record in submission.records:
        measurement, version = record.measurement, record.measurement.trial.protocol_version
        if measurement.schema < 1:
            yield Fault(where=record.name, why=f"schema {measurement.schema}: there is none before 1")
        if not 1 <= version <= PROTOCOL_VERSION:
            why = f"protocol version {version}, of which this software ({PROTOCOL_VERSION}) knows nothing"
            yield Fault(where=record.name, why=why)
        outcomes = [measurement.outcome, *(window.outcome for window in measurement.windows)]
        unknown = next((outcome for outcome in outcomes if outcome not in OUTCOMES), None)
        if unknown is not None:
            yield Fault(where=record.name, why=f"outcome {unknown!r} is none of {', '.join(OUTCOMES)}")
        if measurement.outcome != "ok" and not measurement.reason:
            yield Fault(where=record.name, why=f"ended as {measurement.outcome} without a reason")
        if measurement.schema < SCHEMA_VERSION:
            older[measurement.schema] = older.get(measurement.schema, 0) + 1
    for schema, count in older.items():
        why = f"{count} records of schema {schema}; this software writes {SCHEMA_VERSION} and reads both"
        yield Fault(where=submission.name, why=why, refused=False)


ENTRY = CheckEntry(title="every file is a record of a known form", order=0, look=_look)
