"""Choosing by an earlier stage: which value of a setting did best, for each technique, and the evidence for it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from efficientllm.errors import RecipeError, did_you_mean
from efficientllm.recipes.recipe import Select
from efficientllm.records.measurement import Measurement
from efficientllm.records.trial import Selected, Trial

#: What a value can be chosen by -> the figure of the window `quality`; lower is better.
_BY = {"valid_loss": "heldout_nats_per_token", "valid_bits_per_byte": "heldout_bits_per_byte"}

#: What a stage with `select` does not take from the stage it selects from.
_OWN = ("name", "select", "repeats", "judged_on")


def completed(stages: list[Any], file: str) -> list[Any]:
    """Return raw stages of which each with `select` has what it takes from the stage it selects from.

    That stage is judged by its validation rows: what a setting is chosen by must not be what it is judged by.

    Raises:
        RecipeError: no such stage, axis or figure.
    """
    named = {str(raw.get("name", raw.get("workload"))): raw for raw in stages if isinstance(raw, dict)}
    made: list[Any] = []
    for raw in stages:
        if not (isinstance(raw, dict) and "select" in raw):
            made.append(raw)
            continue
        where = f"{file}: stages.{raw.get('name', raw.get('workload'))}.select"
        source = named.get(_select(raw["select"], where).source, {})
        select = _checked(raw["select"], source, [key for key in named if named[key] is not raw], where)
        taken = {key: value for key, value in source.items() if key not in _OWN}
        taken["axes"] = {key: values for key, values in source["axes"].items() if key != select.over}
        made.append({**taken, **raw})
    tuned = {raw["select"]["from"] for raw in made if isinstance(raw, dict) and "select" in raw}
    return [
        {"judged_on": "valid", **raw} if name in tuned else raw for name, raw in zip(_names(made), made, strict=True)
    ]


def choose(select: Select, labels: Sequence[str], cell: Mapping[str, str], tried: Sequence[Measurement]) -> Selected:
    """Return the choice for one technique.

    Args:
        select: of the recipe.
        labels: values of the axis, in its order: of those that did equally well the first is taken.
        cell: the technique's own axes.
        tried: the stage's measurements, all of them.
    """
    means: dict[str, float] = {}
    failed: dict[str, str] = {}
    outcome = ""
    for label in labels:
        records = [m for m in tried if m.trial.axes == {**cell, select.over: label}]
        wrong = next((m for m in records if m.outcome != "ok" or _figure(m, select) is None), None)
        if wrong is not None or not records:
            outcome = outcome or (wrong.outcome if wrong and wrong.outcome != "ok" else "unsupported")
            failed[label] = f"{wrong.outcome}: {wrong.reason}" if wrong else f"{select.source} did not try it"
        else:
            means[label] = statistics.fmean(value for m in records if (value := _figure(m, select)) is not None)
    best = min(means, key=lambda label: means[label]) if means else ""
    return Selected(
        stage=select.source,
        by=select.by,
        over=select.over,
        value=best,
        outcome="" if best else outcome,
        tried=means,
        failed=failed,
        at_edge=bool(best) and len(labels) > 1 and best in (labels[0], labels[-1]),
    )


def results_of(trials: Sequence[Trial], done: Mapping[str, Measurement]) -> list[Measurement] | None:
    """Return the measurements of a stage's trials, or None while one is missing or was interrupted."""
    found = [done[trial.id] for trial in trials if trial.id in done and done[trial.id].outcome != "interrupted"]
    return found if len(found) == len(trials) else None


def reason_of_no_choice(selected: Selected) -> str:
    """Return why no value could be chosen: how each one ended."""
    ended = "; ".join(f"{label} {how}" for label, how in selected.failed.items())
    return f"no {selected.over} to choose after {selected.stage}: {ended}"


def _figure(measurement: Measurement, select: Select) -> float | None:
    window = measurement.find("quality")
    return window.figures.get(_BY[select.by]) if window is not None and window.outcome == "ok" else None


def _names(stages: Sequence[Any]) -> list[str]:
    return [str(raw.get("name", raw.get("workload"))) if isinstance(raw, dict) else "" for raw in stages]


def _select(raw: Any, where: str) -> Select:
    try:
        return msgspec.convert(raw, Select)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{where}: {error}. Expected {{from: tune, by: valid_loss, over: learning_rate}}.") from error


def _checked(raw: Any, source: Mapping[str, Any], stages: Sequence[str], where: str) -> Select:
    select = _select(raw, where)
    if not source:
        hint = did_you_mean(select.source, stages)
        raise RecipeError(f"{where}.from: no stage {select.source!r}. {hint}Stages: {', '.join(stages) or 'none'}.")
    axes = list(source.get("axes") or {})
    if select.over not in axes:
        hint = did_you_mean(select.over, axes)
        raise RecipeError(
            f"{where}.over: {select.over!r} is no axis of {select.source}. {hint}Axes: {', '.join(axes) or 'none'}."
        )
    if select.by not in _BY:
        raise RecipeError(
            f"{where}.by: {select.by!r} is no figure. {did_you_mean(select.by, _BY)}Known: {', '.join(_BY)}."
        )
    return select
