"""Which records count: one for each trial on each machine, from the newest code, and never an invalid one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.records.measurement import Measurement
from efficientllm.records.settings import CalibrateSettings

#: Sorts records of trials that could not begin behind all others.
_NEVER = "~"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Records sorted out.

    Attributes:
        records: one for each trial and machine, whatever its outcome, in the order in which they were started.
        left_out: all others, and those of `records` that are not ok, each with its reason.
    """

    records: tuple[Measurement, ...]
    left_out: tuple[str, ...]


def counts(measurement: Measurement) -> bool:
    """Whether a record's figures may stand in a table."""
    return measurement.outcome == "ok" and not measurement.invalid_codes


def select(measurements: Sequence[Measurement]) -> Selection:
    """Choose the record that stands for each trial on each machine.

    The newest by `started_at` says which code and libraries count; among its attempts an ok one goes before others.
    Calibrations are no techniques and are passed over.
    """
    attempts: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in sorted(measurements, key=lambda m: m.started_at or _NEVER):
        if not isinstance(measurement.trial.settings, CalibrateSettings):
            key = (measurement.trial.id, measurement.environment.machine_id)
            attempts.setdefault(key, []).append(measurement)
    chosen, left_out = [], []
    for candidates in attempts.values():
        if len(candidates) == 1 and counts(candidates[0]):
            chosen.append(candidates[0])
            continue
        newest = max(candidates, key=lambda m: m.started_at)
        current = [m for m in candidates if m.environment.id == newest.environment.id]
        best = max(current, key=lambda m: (counts(m), m.started_at))
        chosen.append(best)
        left_out += [f"{_name(other)}: {_why_not(other, newest)}" for other in candidates if other is not best]
        if not counts(best):
            left_out.append(f"{_name(best)}: {_ended(best)}")
    return Selection(records=tuple(chosen), left_out=tuple(left_out))


def _name(measurement: Measurement) -> str:
    trial = measurement.trial
    return f"{measurement.id} ({trial.stage or trial.settings_workload()} {trial.technique()}, repeat {trial.repeat})"


def _why_not(measurement: Measurement, newest: Measurement) -> str:
    if measurement.environment.id != newest.environment.id:
        return "measured by other code or libraries than the newest record of this trial"
    return f"an attempt that another replaces; {_ended(measurement)}"


def _ended(measurement: Measurement) -> str:
    outcome = "invalid" if measurement.invalid_codes else measurement.outcome
    codes = f" ({', '.join(measurement.invalid_codes)})" if measurement.invalid_codes else ""
    return f"{outcome}{codes}{': ' + measurement.reason if measurement.reason else ''}"
