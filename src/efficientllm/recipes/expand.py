"""Recipe -> trials, in the order in which they run."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from efficientllm.errors import RecipeError, did_you_mean
from efficientllm.recipes.recipe import Recipe, Stage
from efficientllm.recipes.reference import reference_precision
from efficientllm.recipes.resolve import resolve
from efficientllm.recipes.select import choose, results_of
from efficientllm.records.choice import Choice
from efficientllm.records.measurement import Measurement
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import Settings
from efficientllm.records.trial import Selected, Trial, make_trial

#: A stage that tunes counts its seeds from here: a setting chosen by some seeds would look too good on the same ones.
_TUNING_SEEDS = 1000


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A combination that the recipe leaves out, with its reason."""

    stage: str
    axes: dict[str, str]
    because: str


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A stage whose trials are known only once another one has been measured."""

    stage: str
    after: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of a recipe in running order, as far as they are known, and what it leaves out."""

    trials: tuple[Trial, ...]
    skipped: tuple[Skipped, ...] = ()
    pending: tuple[Pending, ...] = ()


def expand(recipe: Recipe, device: str, done: Mapping[str, Measurement] | None = None) -> Plan:
    """List a recipe's trials on a kind of device.

    Round by round: each repeat passes through all stages before the next begins, so that a study that is cut short
    has whole rounds; inside a stage the techniques stand in the recipe's order. A stage that selects from another one
    comes after all rounds of that, and it and those after it are pending until `done` holds the results: what was
    listed before is the beginning of what is listed then.

    Args:
        recipe: what to measure.
        device: kind of device.
        done: trial -> its measurement.

    Raises:
        RecipeError: a setting out of bounds, a baseline that no trial has, or nothing left to run.
    """
    recipe = msgspec.structs.replace(recipe, stages=tuple(stage.on(device) for stage in recipe.stages))
    trials: list[Trial] = []
    skipped: dict[str, Skipped] = {}
    made: dict[tuple[str, int], list[Trial]] = {}
    pending: list[Pending] = []
    for stages in _segments(recipe.stages):
        tried = _tried(stages[0], made, done or {})
        if tried is None or pending:
            after = stages[0].select.source if stages[0].select else ""
            pending += [Pending(stage=stage.name, after=after) for stage in stages]
            continue
        for repeat in range(max(stage.repeats or recipe.repeats for stage in stages)):
            for stage in stages:
                if repeat < (stage.repeats or recipe.repeats):
                    parents = _taken(recipe, stage, made.get((stage.source, repeat), []))
                    cells = list(_stage_trials(recipe, stage, device, repeat, parents, skipped, tried))
                    made[stage.name, repeat] = cells
                    trials += _ordered(cells, recipe, repeat)
    if not trials:
        raise RecipeError(f"{recipe.file}: nothing is left to run. Take something out of `skip`.")
    _check_baseline(recipe.file, "baseline", recipe.baseline, trials)
    for stage in recipe.stages:
        own = [trial for trial in trials if trial.stage == stage.name]
        if own:
            _check_baseline(recipe.file, f"stages.{stage.name}.baseline", stage.baseline, own)
    return Plan(trials=tuple(trials), skipped=tuple(skipped.values()), pending=tuple(pending))


def _segments(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Part the stages before each one that selects."""
    parts: list[list[Stage]] = []
    for stage in stages:
        if stage.select is not None or not parts:
            parts.append([])
        parts[-1].append(stage)
    return parts


def _tried(
    stage: Stage, made: Mapping[tuple[str, int], list[Trial]], done: Mapping[str, Measurement]
) -> list[Measurement] | None:
    """Return what a stage selects from, nothing where it does not select, None where not all is measured."""
    if stage.select is None:
        return []
    return results_of([t for (name, _), cells in made.items() if name == stage.select.source for t in cells], done)


def _taken(recipe: Recipe, stage: Stage, parents: list[Trial]) -> list[Trial]:
    """Return the trials of its source that a stage goes on with."""
    if stage.only == "first":
        return parents[:1]
    taken = [parent for parent in parents if _matches(stage.only, parent.axes)]
    if parents and not taken:
        wanted = ", ".join(f"{key}: {value}" for key, value in stage.only.items())
        known = sorted({f"{key}: {value}" for parent in parents for key, value in parent.axes.items()})
        raise RecipeError(
            f"{recipe.file}: stages.{stage.name}.only: no trial of {stage.source} has {wanted}. "
            f"{did_you_mean(wanted, known)}Axes: {', '.join(known)}."
        )
    return taken


def _stage_trials(
    recipe: Recipe,
    stage: Stage,
    device: str,
    repeat: int,
    parents: list[Trial],
    skipped: dict[str, Skipped],
    tried: Sequence[Measurement],
) -> Iterator[Trial]:
    sources: list[Trial | None] = list(parents) if stage.source else [None]
    for parent, values in itertools.product(sources, _product(stage.axes, stage.one_at_a_time)):
        settings = _settings(recipe, stage, device, values, parent)
        labels = _labels(settings, values)
        axes = {**(parent.axes if parent else {}), **labels}
        selected = None
        if stage.select is not None:
            settings, selected = _selected(recipe, stage, device, values, parent, axes, tried)
        because = _because(stage, axes)
        if because:
            skip = Skipped(stage=stage.name, axes=axes, because=because)
            skipped[f"{stage.name} {axes}"] = skip
            continue
        yield make_trial(
            settings=settings,
            protocol=recipe.protocol,
            device=device,
            seed=recipe.seed + repeat + (_TUNING_SEEDS if stage.tunes else 0),
            repeat=repeat,
            parent=parent.id if parent else "",
            stage=stage.name,
            axes=axes,
            baseline=_is_baseline(stage.baseline or recipe.baseline, axes),
            selected=selected,
            name=_lever(labels, values, stage.axes) if stage.one_at_a_time else "",
        )


def _selected(
    recipe: Recipe,
    stage: Stage,
    device: str,
    values: dict[str, Any],
    parent: Trial | None,
    axes: dict[str, str],
    tried: Sequence[Measurement],
) -> tuple[Settings, Selected]:
    """Return the settings with the value that did best, and the evidence; the first one where none can be chosen."""
    assert stage.select is not None
    over = stage.select.over
    source = next(s for s in recipe.stages if s.name == stage.select.source)
    listed: dict[str, Settings] = {}
    for value in source.axes[over]:
        settings = _settings(recipe, stage, device, {**values, over: value}, parent)
        listed[_labels(settings, {over: value})[over]] = settings
    selected = choose(stage.select, list(listed), axes, tried)
    return listed.get(selected.value, next(iter(listed.values()))), selected


def _settings(recipe: Recipe, stage: Stage, device: str, values: dict[str, Any], parent: Trial | None) -> Settings:
    plain: dict[str, Any] = {**stage.settings, **stage.per_device.get(device, {})}
    for key, value in values.items():
        head, _, rest = key.partition(".")
        plain[head] = {**plain.get(head, {}), rest: value} if rest else value
    where = f"stages.{stage.name}"
    if "against" in stage.kind.__struct_fields__ and "against" not in plain:
        plain["against"] = reference_precision(stage.baseline or recipe.baseline, stage.axes)
    own = resolve(stage.kind, plain, recipe.file, where)
    if parent is None or not isinstance(own, ModelSettings):
        return own
    taken = [key for key in ModelSettings.__struct_fields__ if key not in own.own_with_from]
    for key in taken:
        if key in plain:
            raise RecipeError(f"{recipe.file}: {where}.{key}: comes with `from: {stage.source}`. Set it there.")
    if getattr(own, "model", ""):
        raise RecipeError(f"{recipe.file}: {where}.model: comes with `from: {stage.source}`. Name one of them.")
    inherited = {key: getattr(parent.settings, key) for key in taken}
    for key in own.own_with_from:
        if key not in plain:
            inherited[key] = getattr(parent.settings, key)
    replaced: Settings = msgspec.structs.replace(own, **inherited)
    return replaced


def _product(axes: dict[str, tuple[Any, ...]], one_at_a_time: bool = False) -> Iterator[dict[str, Any]]:
    """Yield axis -> value for each combination.

    >>> [tuple(values.values()) for values in _product({"a": (0, 1, 2), "b": (0, 1)}, one_at_a_time=True)]
    [(0, 0), (1, 0), (2, 0), (0, 1)]
    """
    if not one_at_a_time:
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))
        return
    first = {key: values[0] for key, values in axes.items()}
    yield first
    for key, values in axes.items():
        yield from ({**first, key: value} for value in values[1:])


def _labels(settings: Settings, values: dict[str, Any]) -> dict[str, str]:
    labels = {}
    for key, value in values.items():
        chosen = getattr(settings, key, value)
        labels[key] = chosen.label() if isinstance(chosen, Choice) else str(value)
    return labels


def _lever(labels: dict[str, str], values: dict[str, Any], axes: dict[str, tuple[Any, ...]]) -> str:
    """Return which axis has another value than its first, and which one; `none` if all have their first."""
    moved = [f"{key}={labels[key]}" for key, value in values.items() if value is not axes[key][0]]
    return moved[0] if moved else "none"


def _because(stage: Stage, axes: dict[str, str]) -> str:
    for skip in stage.skip:
        wanted = {key: value for key, value in skip.items() if key != "because"}
        if _matches(wanted, axes):
            return str(skip["because"])
    return ""


def _matches(wanted: dict[str, Any], axes: dict[str, str]) -> bool:
    return all(axes.get(key) == str(value) for key, value in wanted.items())


def _is_baseline(wanted: dict[str, Any], axes: dict[str, str]) -> bool:
    return bool(wanted) and _matches(wanted, axes)


def _ordered(cells: list[Trial], recipe: Recipe, repeat: int) -> list[Trial]:
    if recipe.order == "latin" and cells:
        turn = repeat % len(cells)
        return cells[turn:] + cells[:turn]
    if recipe.order == "shuffled":
        return random.Random(f"{recipe.seed} {repeat}").sample(cells, len(cells))
    return cells


def _check_baseline(file: str, where: str, wanted: dict[str, Any], trials: list[Trial]) -> None:
    if not wanted or any(trial.baseline for trial in trials):
        return
    known = sorted({f"{key}: {value}" for trial in trials for key, value in trial.axes.items()})
    given = ", ".join(f"{key}: {value}" for key, value in wanted.items())
    raise RecipeError(f"{file}: {where}: no trial has {given}. {did_you_mean(given, known)}Axes: {', '.join(known)}.")
