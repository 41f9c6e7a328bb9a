"""Ids follow from what they stand for: trial, machine and environment are hashed again, files are named by them."""

from __future__ import annotations

from collections.abc import Iterator

from efficientllm.records.environment import environment_digests
from efficientllm.records.trial import trial_digest
from efficientllm.store.names import is_safe_id
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.submission import MEASUREMENT, Record, Submission


def _look(submission: Submission) -> Iterator[Fault]:
    trials = {record.measurement.trial.id for record in submission.records}
    for record in submission.records:
        yield from _of_record(record)
        parent = record.measurement.trial.parent
        if parent and parent not in trials and submission.kind != MEASUREMENT:
            yield Fault(where=record.name, why=f"goes on from trial {parent}, which is not among the records")


def _of_record(record: Record) -> Iterator[Fault]:
    measurement = record.measurement
    trial, environment = measurement.trial, measurement.environment
    attempt = measurement.id.removeprefix(f"{trial.id}-{environment.id}-")
    if measurement.id != record.name or not is_safe_id(record.name):
        yield Fault(where=record.name, why=f"holds the measurement {measurement.id!r}, not one of its name")
    if not attempt.isdecimal():
        yield Fault(where=record.name, why=f"is no attempt at trial {trial.id} in environment {environment.id}")
    try:
        trial_id = trial_digest(record.raw["trial"])
        environment_id, machine_id = environment_digests(record.raw["environment"])
    except (KeyError, TypeError, AttributeError) as error:
        yield Fault(where=record.name, why=f"lacks a field that its id is made of: {error}")
        return
    if trial_id != trial.id:
        yield Fault(where=record.name, why=f"its trial's fields hash to {trial_id}, it says {trial.id}")
    if machine_id != environment.machine_id:
        why = f"its machine's fields hash to {machine_id}, it says {environment.machine_id}"
        yield Fault(where=record.name, why=why)
    if environment_id != environment.id:
        yield Fault(where=record.name, why=f"its environment's fields hash to {environment_id}, not {environment.id}")


ENTRY = CheckEntry(title="ids are the hashes of what they stand for", order=20, look=_look)
