"""What the recipes of a submission asked for on one kind of device, expanded again from their kept text."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from efficientllm import catalog
from efficientllm.errors import EfficientLLMError, UnknownNameError
from efficientllm.recipes.expand import Plan, expand
from efficientllm.recipes.load import recipe_from_text
from efficientllm.recipes.recipe import Recipe
from efficientllm.recipes.yaml import parse_mapping
from efficientllm.records.measurement import Measurement
from efficientllm.records.settings import slot_of
from efficientllm.records.trial import Trial

#: Stage, axes and repeat: by these a trial of a plan and a record of it find each other, whatever their ids.
Cell = tuple[str, tuple[tuple[str, str], ...], int]


class NoPlan(Exception):
    """A recipe that cannot be expanded here; `str()` of it says why.

    Attributes:
        elsewhere: whether it may well be one where its author's files and entries are.
    """

    def __init__(self, why: str, *, elsewhere: bool = False) -> None:
        super().__init__(why)
        self.elsewhere = elsewhere


#: Data may be named by their path, which nobody follows here.
_BY_PATH = ("corpus", "instructions", "questions", "recipe")
#: What a recipe of this size may hold at most: who hands in a larger one keeps the reader waiting.
_MOST_BYTES, _MOST_ANCHORS, _MOST_TRIALS = 1 << 16, 8, 20_000


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
    except UnknownNameError as error:
        raise NoPlan(str(error), elsewhere=True) from error
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
    if len(text) > _MOST_BYTES or len(re.findall(rb"(?:^|[\s\[{,:-])&\w", text)) > _MOST_ANCHORS:
        raise NoPlan("it is larger, or has more anchors, than is read from a stranger")
    own = _own_files(parse_mapping(text.decode(), file))
    if own:  # nothing of this machine's is looked at, and no file of it run, because a stranger's recipe names it
        raise NoPlan(f"it names a file of its author's, {own!r}", elsewhere=True)
    recipe = recipe_from_text(text.decode(), file)
    trials = sum(
        (stage.repeats or recipe.repeats) * math.prod(len(values) for values in stage.axes.values())
        for stage in recipe.stages
    )
    if trials > _MOST_TRIALS:
        raise NoPlan(f"it asks for {trials} trials, more than are read from a stranger")
    return recipe


def _own_files(value: object, key: str = "") -> str:
    """Return a path that stands where an entry is chosen, empty where there is none."""
    if isinstance(value, dict):
        return next((found for name, one in value.items() if (found := _own_files(one, _slot(key, str(name))))), "")
    if isinstance(value, list):
        return next((found for one in value if (found := _own_files(one, key))), "")
    chosen = key not in _BY_PATH and key in catalog.FOLDERS
    return value if isinstance(value, str) and chosen and catalog.looks_like_path(value) else ""


def _slot(outer: str, name: str) -> str:
    """Return the kind of entry that a key chooses; within a choice `name` does."""
    return outer if name == "name" and outer in catalog.FOLDERS else slot_of(name.rpartition(".")[2])


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
