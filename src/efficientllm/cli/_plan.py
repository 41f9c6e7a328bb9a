"""The plan of a run: its trials, which are stored, which cannot run, what memory each takes, what will not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import typer

from efficientllm.bench.forecast import too_large
from efficientllm.units import bytes_text

if TYPE_CHECKING:
    from efficientllm.bench.study import StudyRun
    from efficientllm.recipes.recipe import Recipe
    from efficientllm.records.prediction import MemoryPrediction
    from efficientllm.records.trial import Trial


def print_plan(recipe: Recipe, study_run: StudyRun, as_json: bool) -> None:
    """Print the plan as a table, or as JSON."""
    missing = {trial.id for trial in study_run.missing()}
    refused, memory = study_run.unsupported(), study_run.memory()
    info = study_run.device.info()
    too_much = {
        key: reason for key, found in memory.items() if key not in refused and (reason := too_large(found, info))
    }
    for trial in study_run.plan.trials:
        if trial.parent in too_much:
            too_much[trial.id] = "no checkpoint to start from"
    if as_json:
        rows = [
            {
                **msgspec.to_builtins(trial),
                "stored": trial.id not in missing,
                "unsupported": refused.get(trial.id, ""),
                "predicted": memory[trial.id].figures() if trial.id in memory else {},
                "does_not_fit": too_much.get(trial.id, ""),
            }
            for trial in study_run.plan.trials
        ]
        typer.echo(msgspec.json.encode(rows).decode())
        return
    _print_table(recipe, study_run, missing, refused, memory, too_much)


def _print_table(
    recipe: Recipe,
    study_run: StudyRun,
    missing: set[str],
    refused: dict[str, str],
    memory: dict[str, MemoryPrediction],
    too_much: dict[str, str],
) -> None:
    from rich.console import Console
    from rich.table import Table

    plan, skips = study_run.plan, {} if study_run.try_anyway else too_much
    to_measure = len(missing - refused.keys() - skips.keys())
    table = Table(title=f"{recipe.name}: {len(plan.trials)} trials, {to_measure} to measure", title_justify="left")
    headings = ["", "trial", "stage", "technique", "repeat", "from", "stored", *(["memory"] if memory else [])]
    for heading in headings:
        right = heading in ("", "repeat", "from", "memory")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading == "trial")
    numbers = {trial.id: str(number) for number, trial in enumerate(plan.trials, 1)}
    reasons: dict[str, None] = {}
    for trial in plan.trials:
        label = trial.technique() + (" (baseline)" if trial.baseline else "")
        stored = "" if trial.id in missing else "yes"
        for word, why in (("unsupported", refused), ("does not fit", too_much)):
            if trial.id in why:
                stored = word if word == "unsupported" or not stored else stored
                reasons[f"{word}: {trial.stage} {trial.technique()}: {why[trial.id]}"] = None
        cells = [
            numbers[trial.id],
            trial.id,
            trial.stage,
            label,
            str(trial.repeat),
            numbers.get(trial.parent, ""),
            stored,
        ]
        table.add_row(*cells, *([_memory(trial, memory)] if memory else []))
    console = Console(highlight=False)
    console.print(table)
    for reason in (*reasons, *_unpredicted(plan.trials, memory)):
        console.print(reason, soft_wrap=True, markup=False)
    for later in plan.pending:
        console.print(f"chosen after {later.after}: the trials of {later.stage}")
    for skip in plan.skipped:
        console.print(f"skipped: {skip.stage} {' '.join(skip.axes.values())}: {skip.because}")


def _memory(trial: Trial, memory: dict[str, MemoryPrediction]) -> str:
    """Return the predicted peak of a training run; empty for other trials."""
    found = memory.get(trial.id)
    if found is None or found.why_not:
        return ""
    return f"{'≥ ' if found.at_least else ''}{bytes_text(found.peak_bytes)}"


def _unpredicted(trials: Sequence[Trial], memory: dict[str, MemoryPrediction]) -> list[str]:
    """Return a line for each reason why memory is not predicted, or only from below."""
    lines = (
        f"memory not predicted: {trial.stage} {trial.technique()}: {found.why_not}"
        if found.why_not
        else f"memory predicted from below: {trial.stage} {trial.technique()}: not counted is {found.at_least}"
        for trial in trials
        if (found := memory.get(trial.id)) is not None and (found.why_not or found.at_least)
    )
    return list(dict.fromkeys(lines))
