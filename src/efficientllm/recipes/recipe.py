"""A recipe as typed structs: what to measure, in which stages, over which axes."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from efficientllm.records.protocol import Protocol
from efficientllm.records.settings import Settings


class Select(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """A setting that an earlier stage chooses, for each technique: the value of axis `over` that did best `by`."""

    source: str
    by: str
    over: str


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a recipe.

    Attributes:
        settings: the keys that are set, before axes; values as YAML gave them.
        axes: settings key -> the values it takes; the product of all axes is the stage's trials.
        one_at_a_time: whether, in place of the product, only those combinations are tried in which at most one axis has
            another value than its first: what each lever does on its own. A row is then named by what is
            changed: `offload=weights`.
        source: name of the stage whose artifacts this one takes (`from:` in YAML), or empty.
        baseline: axis -> value of this stage's own baseline, where it is another than the recipe's.
        only: of that stage's trials, those that this one goes on with: by values of axes (`only: {mixer: gqa}`), or the
            `first`; all where it is empty.
        per_device: kind of device -> settings that replace the above on it.
        axes_on: kind of device -> values that replace those of an axis on it (`axes` under `per_device` in YAML).
        skip: combinations left out; each maps axes to values and says `because`.
        select: what an earlier stage chooses for this one, which takes that stage's other settings and axes too.
        repeats: rounds of this stage alone, 0 for the recipe's.
        tunes: whether a later stage selects from this one; it runs with seeds of its own.
    """

    name: str
    kind: type[Settings]
    settings: dict[str, Any] = {}
    axes: dict[str, tuple[Any, ...]] = {}
    one_at_a_time: bool = False
    source: str = ""
    baseline: dict[str, Any] = {}
    only: dict[str, Any] | Literal["first"] = {}
    per_device: dict[str, dict[str, Any]] = {}
    axes_on: dict[str, dict[str, tuple[Any, ...]]] = {}
    skip: tuple[dict[str, Any], ...] = ()
    select: Select | None = None
    repeats: int = 0
    tunes: bool = False

    def on(self, device: str) -> Stage:
        """Return the stage with its axes as they are on a kind of device."""
        return msgspec.structs.replace(self, axes={**self.axes, **self.axes_on.get(device, {})})


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A whole recipe.

    Attributes:
        file: what errors quote.
        title: one line for people.
        device: `auto`, `cpu` or `cuda`.
        repeats: processes a technique; seed: of the first repeat, the next ones count up.
        order: of techniques inside a round: `interleaved` (as listed), `latin` (rotated by round) or `shuffled`.
        baseline: axis -> value of the row that others are compared with.
        text: the recipe as read, with the words that were laid over it; stored beside the results.
    """

    name: str
    file: str
    stages: tuple[Stage, ...]
    title: str = ""
    device: str = "auto"
    repeats: int = 3
    seed: int = 0
    order: str = "interleaved"
    protocol: Protocol = Protocol()
    baseline: dict[str, Any] = {}
    text: str = ""


ORDERS = ("interleaved", "latin", "shuffled")
