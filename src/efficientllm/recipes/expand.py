"""Recipe -> trials, in the order in which they run."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from efficientllm.errors import RecipeError, did_you_mean
from efficientllm.recipes.recipe import Recipe, Stage
from efficientllm.recipes.resolve import resolve
from efficientllm.records.choice import Choice
from efficientllm.records.settings import ModelSettings, Settings
from efficientllm.records.trial import Trial, make_trial

#: What a stage with `from` may still say of the model; all else comes with the artifact.
_OWN_WITH_FROM = ("dtype", "compile", "heldout_tokens")


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A combination that the recipe leaves out, with its reason."""

    stage: str
    axes: dict[str, str]
    because: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of a recipe in running order, and what it leaves out."""

    trials: tuple[Trial, ...]
    skipped: tuple[Skipped, ...] = ()


def expand(recipe: Recipe, device: str) -> Plan:
    """List a recipe's trials on a kind of device.

    Round by round: each repeat passes through all stages before the next begins, so that a study that is cut short
    has whole rounds; inside a stage the techniques stand in the recipe's order.

    Raises:
        RecipeError: a setting out of bounds, a baseline that no trial has, or nothing left to run.
    """
    trials: list[Trial] = []
    skipped: dict[str, Skipped] = {}
    for repeat in range(recipe.repeats):
        made: dict[str, list[Trial]] = {}
        for stage in recipe.stages:
            cells = list(_stage_trials(recipe, stage, device, repeat, made.get(stage.source, []), skipped))
            made[stage.name] = cells
            trials += _ordered(cells, recipe, repeat)
    if not trials:
        raise RecipeError(f"{recipe.file}: nothing is left to run. Take something out of `skip`.")
    _check_baseline(recipe, trials)
    return Plan(trials=tuple(trials), skipped=tuple(skipped.values()))


def _stage_trials(
    recipe: Recipe, stage: Stage, device: str, repeat: int, parents: list[Trial], skipped: dict[str, Skipped]
) -> Iterator[Trial]:
    sources: list[Trial | None] = list(parents) if stage.source else [None]
    for parent, values in itertools.product(sources, _product(stage.axes)):
        settings = _settings(recipe, stage, device, values, parent)
        axes = {**(parent.axes if parent else {}), **_labels(settings, values)}
        because = _because(stage, axes)
        if because:
            skip = Skipped(stage=stage.name, axes=axes, because=because)
            skipped[f"{stage.name} {axes}"] = skip
            continue
        yield make_trial(
            settings=settings,
            protocol=recipe.protocol,
            device=device,
            seed=recipe.seed + repeat,
            repeat=repeat,
            parent=parent.id if parent else "",
            stage=stage.name,
            axes=axes,
            baseline=_matches(recipe.baseline, axes) if recipe.baseline else False,
        )


def _settings(recipe: Recipe, stage: Stage, device: str, values: dict[str, Any], parent: Trial | None) -> Settings:
    plain: dict[str, Any] = {**stage.settings, **stage.per_device.get(device, {})}
    for key, value in values.items():
        head, _, rest = key.partition(".")
        plain[head] = {**plain.get(head, {}), rest: value} if rest else value
    where = f"stages.{stage.name}"
    own = resolve(stage.kind, plain, recipe.file, where)
    if parent is None or not isinstance(own, ModelSettings):
        return own
    taken = [key for key in ModelSettings.__struct_fields__ if key not in _OWN_WITH_FROM]
    for key in taken:
        if key in plain:
            raise RecipeError(f"{recipe.file}: {where}.{key}: comes with `from: {stage.source}`. Set it there.")
    inherited = {key: getattr(parent.settings, key) for key in taken}
    for key in _OWN_WITH_FROM:
        if key not in plain:
            inherited[key] = getattr(parent.settings, key)
    replaced: Settings = msgspec.structs.replace(own, **inherited)
    return replaced


def _product(axes: dict[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _labels(settings: Settings, values: dict[str, Any]) -> dict[str, str]:
    labels = {}
    for key, value in values.items():
        chosen = getattr(settings, key, value)
        labels[key] = chosen.label() if isinstance(chosen, Choice) else str(value)
    return labels


def _because(stage: Stage, axes: dict[str, str]) -> str:
    for skip in stage.skip:
        wanted = {key: value for key, value in skip.items() if key != "because"}
        if _matches(wanted, axes):
            return str(skip["because"])
    return ""


def _matches(wanted: dict[str, Any], axes: dict[str, str]) -> bool:
    return all(axes.get(key) == str(value) for key, value in wanted.items())


def _ordered(cells: list[Trial], recipe: Recipe, repeat: int) -> list[Trial]:
    if recipe.order == "latin" and cells:
        turn = repeat % len(cells)
        return cells[turn:] + cells[:turn]
    if recipe.order == "shuffled":
        return random.Random(f"{recipe.seed} {repeat}").sample(cells, len(cells))
    return cells


def _check_baseline(recipe: Recipe, trials: list[Trial]) -> None:
    if not recipe.baseline or any(trial.baseline for trial in trials):
        return
    known = sorted({f"{key}: {value}" for trial in trials for key, value in trial.axes.items()})
    given = ", ".join(f"{key}: {value}" for key, value in recipe.baseline.items())
    raise RecipeError(
        f"{recipe.file}: baseline: no trial has {given}. {did_you_mean(given, known)}Axes: {', '.join(known)}."
    )
