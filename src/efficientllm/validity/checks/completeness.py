"""Nothing was left out and nothing put in: each technique of the recipes, times repeats, and no attempt missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from efficientllm.records.measurement import Measurement
from efficientllm.records.protocol import PROTOCOL_VERSION
from efficientllm.records.settings import CalibrateSettings, UserSettings
from efficientllm.records.trial import Trial
from efficientllm.store.attempts import attempt_of, standing
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.plans import Cell, NoPlan, Planned, cell_of, difference, planned
from efficientllm.validity.submission import MEASUREMENT, Submission


def _look(submission: Submission) -> Iterator[Fault]:
    asked = [m for m in submission.measurements() if not isinstance(m.trial.settings, CalibrateSettings | UserSettings)]
    yield from _attempts(submission.measurements())
    if not submission.recipes:
        if asked:
            yield Fault(where=submission.name, why="holds no recipe that its trials could be held against")
        return
    machines: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in asked:
        machines.setdefault((measurement.environment.machine_id, measurement.trial.device), []).append(measurement)
    for (machine, device), records in machines.items():
        yield from _on_one_machine(submission, machine, device, records)


def _on_one_machine(
    submission: Submission, machine: str, device: str, records: Sequence[Measurement]
) -> Iterator[Fault]:
    plans: list[Planned] = []
    for file, text in submission.recipes.items():
        try:
            plans.append(planned(file, text, device, records))
        except NoPlan as error:
            why = f"cannot be expanded here, so that only its repeats are counted: {error}"
            current = any(measurement.trial.protocol_version == PROTOCOL_VERSION for measurement in records)
            yield Fault(where=f"recipes/{file}", why=why, refused=current and not error.elsewhere)
    if len(plans) < len(submission.recipes):
        yield from _same_repeats(records)
    by_cell: dict[Cell, list[Measurement]] = {}
    for measurement in records:
        by_cell.setdefault(cell_of(measurement.trial), []).append(measurement)
    for plan in plans:
        yield from _missing(plan, machine, by_cell)
    if len(plans) == len(submission.recipes):
        trials = {m.trial.id: m.trial for m in records}
        for measurement in records:
            yield from _asked_for(measurement, plans, trials)


def _missing(plan: Planned, machine: str, by_cell: dict[Cell, list[Measurement]]) -> Iterator[Fault]:
    missing = [trial for cell, trial in plan.cells.items() if cell not in by_cell]
    if len(missing) == len(plan.cells):
        yield Fault(where=f"recipes/{plan.file}", why=f"nothing of it was measured on {machine}", refused=False)
        return
    for trial in missing:
        yield Fault(where=f"recipes/{plan.file}", why=f"{_words(trial)} is missing on machine {machine}")
    for stage in plan.pending:
        yield Fault(where=f"recipes/{plan.file}", why=f"stage {stage} waits for results that are missing on {machine}")


def _asked_for(measurement: Measurement, plans: Sequence[Planned], trials: dict[str, Trial]) -> Iterator[Fault]:
    differing = ""
    for plan in plans:
        trial = plan.cells.get(cell_of(measurement.trial))
        if trial is not None:
            differing = difference(trial, measurement.trial, {**trials, **plan.trials})
            if not differing:
                return
    if not differing:
        yield Fault(where=measurement.id, why=f"{_words(measurement.trial)}: no recipe here asks for it")
        return
    # an older form's settings may have been filled otherwise
    current = measurement.trial.protocol_version == PROTOCOL_VERSION or differing.startswith(("baseline", "seed"))
    yield Fault(where=measurement.id, why=f"{_words(measurement.trial)}: {differing}", refused=current)


def _attempts(measurements: Sequence[Measurement]) -> Iterator[Fault]:
    of_trial: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        of_trial.setdefault((measurement.trial.id, measurement.environment.id), []).append(measurement)
    for (trial, environment), attempts in of_trial.items():
        numbers = {attempt_of(measurement) for measurement in attempts}
        last = max(numbers)
        if last >= len(numbers):
            missing = next(number for number in range(last) if number not in numbers)
            yield Fault(where=f"{trial}-{environment}", why=f"has an attempt {last} and no attempt {missing}")
        ended = [measurement for measurement in attempts if standing([measurement]) is not None]
        if len(ended) > 1:
            why = f"{len(ended)} attempts came to an end, where the first is to stand"
            yield Fault(where=f"{trial}-{environment}", why=why)
        if all(measurement.outcome == "interrupted" for measurement in attempts):
            why = f"{_words(attempts[0].trial)} was interrupted and not run again"
            yield Fault(where=f"{trial}-{environment}", why=why, refused=False)


def _same_repeats(records: Sequence[Measurement]) -> Iterator[Fault]:
    """Without a plan: every technique of a stage has the repeats that any has."""
    stages: dict[str, dict[tuple[tuple[str, str], ...], set[int]]] = {}
    for measurement in records:
        stage, axes, repeat = cell_of(measurement.trial)
        stages.setdefault(stage, {}).setdefault(axes, set()).add(repeat)
    for stage, rows in stages.items():
        every = set().union(*rows.values())
        for axes, repeats in rows.items():
            lacking = sorted(every - repeats)
            if lacking:
                words = " ".join(value for _, value in axes)
                yield Fault(where=f"{stage} {words}", why=f"lacks repeat {lacking[0]}, which others have")


def _words(trial: Trial) -> str:
    return f"{trial.stage or trial.settings_workload()} {trial.technique()}, repeat {trial.repeat}"


def _one(submission: Submission) -> str:
    return "one measurement has no recipe beside it" if submission.kind == MEASUREMENT else ""


ENTRY = CheckEntry(title="all that the recipe asks for, and nothing else", order=70, look=_look, not_applicable=_one)
