"""What the recipes of a submission asked for on one kind of device, expanded again from their kept text."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from efficientllm.errors import EfficientLLMError
from efficientllm.recipes.expand import Plan, expand
from efficientllm.recipes.load import recipe_from_text
from efficientllm.recipes.recipe import Recipe
from efficientllm.records.measurement import Measurement
from efficientllm.records.trial import Trial

#: Stage, axes and repeat: by these a trial of a plan and a record of it find each other, whatever their ids.
Cell = tuple[str, tuple[tuple[str, str], ...], int]


class NoPlan(Exception):
    """A recipe that cannot be expanded here; `str()` of it says why."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A recipe's trials, by cell; `trials` has them by id too, for the parents."""

    file: str
    cells: Mapping[Cell, Trial]
    trials: Mapping[str, Trial]
    pending: tuple[str, ...] = ()


def cell_of(trial: Trial) -> Cell:
    """Return a trial's place in its study."""
    return trial.stage, tuple(sorted(trial.axes.items())), trial.repeat


def planned(file: str, text: bytes, device: str, records: Sequence[Measurement]) -> Planned:
    """Return what a recipe asks for, where stages choose by others' results as these records say.

    Raises:
        NoPlan: it is no recipe, or names files or entries that are not here.
    """
    try:
        plan = _first_plan(file, text, device)
        by_cell = {cell_of(measurement.trial): measurement for measurement in records}
        known = 0
        while plan.pending and len(plan.trials) > known:
            known = len(plan.trials)
            done = {trial.id: by_cell[cell] for trial in plan.trials if (cell := cell_of(trial)) in by_cell}
            plan = expand(_recipe(file, text), device, done)
    except EfficientLLMError as error:
        raise NoPlan(str(error)) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, msgspec.MsgspecError) as error:
        raise NoPlan(f"{type(error).__name__}: {error}") from error
    return Planned(
        file=file,
        cells={cell_of(trial): trial for trial in plan.trials},
        trials={trial.id: trial for trial in plan.trials},
        pending=tuple(pending.stage for pending in plan.pending),
    )


@functools.lru_cache(maxsize=64)
def _recipe(file: str, text: bytes) -> Recipe:
    return recipe_from_text(text.decode(), file)


@functools.lru_cache(maxsize=64)
def _first_plan(file: str, text: bytes, device: str) -> Plan:
    return expand(_recipe(file, text), device)


def difference(asked: Trial, found: Trial, parents: Mapping[str, Trial]) -> str:
    """Return in what a record's trial is not the one that was asked for, empty where it is.

    Args:
        asked: of the plan.
        found: of the record.
        parents: trials of plan and records by id.
    """
    for name in ("baseline", "seed", "device", "name"):
        if getattr(asked, name) != getattr(found, name):
            return f"{name} is {getattr(found, name)!r}, the recipe's is {getattr(asked, name)!r}"
    for part in ("settings", "protocol"):
        said, here = getattr(asked, part), getattr(found, part)
        if said != here:
            text = _field(_plain(said), _plain(here), part)
            if text:
                return text
    return _origin(asked, found, parents)


def _origin(asked: Trial, found: Trial, parents: Mapping[str, Trial]) -> str:
    if bool(asked.parent) != bool(found.parent):
        return "parent: only one of record and recipe goes on from another trial"
    asked_parent, found_parent = parents.get(asked.parent), parents.get(found.parent)
    if asked_parent and found_parent and cell_of(asked_parent) != cell_of(found_parent):
        return f"parent is {found_parent.stage} {found_parent.technique()}, the recipe's is {asked_parent.technique()}"
    chosen = asked.selected.value if asked.selected else None
    if chosen != (found.selected.value if found.selected else None):
        return f"selected: the recorded results choose {chosen!r}"
    return ""


def _plain(value: object) -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(value)
    return found


def _field(asked: object, found: object, name: str) -> str:
    """Return the first field that differs; paths of users' own files do not count, their hashes do."""
    if isinstance(asked, dict) and isinstance(found, dict):
        for key in dict.fromkeys((*asked, *found)):
            if key == "path" and "sha256" in asked:
                continue
            if text := _field(asked.get(key), found.get(key), f"{name}.{key}"):
                return text
        return ""
    return "" if asked == found else f"{name} is {found!r}, the recipe's is {asked!r}"
