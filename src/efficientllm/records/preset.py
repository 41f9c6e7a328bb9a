"""A preset, and what a size and a preset put into the slots that a recipe leaves open.

what the recipe says  before  what the size says (`0.5bx8`)  before  what the preset says  before  gqa, rope, dense
"""

from __future__ import annotations

import re

import msgspec

from efficientllm import catalog, registry
from efficientllm.errors import UserError
from efficientllm.records.card import Card
from efficientllm.records.choice import Choice, Scalar

#: A slot that nobody has filled yet; no finished settings hold it.
OPEN = Choice(name="")

_PLAIN = {"mixer": "gqa", "position": "rope", "mlp": "dense"}


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A whole design of a decoder's blocks: the entry of a file in `models/presets`.

    Attributes:
        card: the design's claim.
        shape: fields of `Shape` that replace those of a size.
        slots: slot -> the entry that fills it unless the recipe names one.
        mlp_ratio: inner width of the mlp over the model's width; 0 leaves the size's own.
    """

    card: Card
    shape: dict[str, Scalar] = {}
    slots: dict[str, str] = {}
    mlp_ratio: float = 0.0


def load_preset(choice: Choice) -> Preset:
    """Return the preset that a choice names.

    Raises:
        UnknownNameError: no such preset.
        UserError: options, which a preset has none of, a file whose ENTRY is of another kind, or that is another than
            the recorded one: who hands in a record names no file that is to be run here.
    """
    if choice.sha256 and registry.file_sha256(catalog.path_of("preset", choice.address())) != choice.sha256:
        raise UserError(f"preset {choice.path} is not the file that was chosen: its hash is another. Choose it again.")
    entry = registry.load("preset", choice.address())
    if not isinstance(entry, Preset):
        raise UserError(
            f"ENTRY of {choice.address()} is a {type(entry).__name__}, not a Preset. "
            "Choose it for another slot, or end the file with `ENTRY = Preset(...)`."
        )
    if choice.options:
        key = min(choice.options)
        raise UserError(f"unknown option {key!r} of preset {choice.name}. It has no options: set shape.{key} instead.")
    return entry


def split_size(size: str) -> tuple[str, int]:
    """Return the named shape of a size, and the experts that take the place of its mlp (0: none).

    >>> split_size("0.5bx8"), split_size("0.5b×8"), split_size("tiny")
    (('0.5b', 8), ('0.5b', 8), ('tiny', 0))
    """
    found = re.fullmatch(r"(.+)[x×]([1-9][0-9]*)", size)
    return (found[1], int(found[2])) if found else (size, 0)


def fill_slots(size: str, preset: Choice, chosen: dict[str, Choice]) -> dict[str, Choice]:
    """Return slot -> what fills it, given what was chosen (`OPEN` where nothing was)."""
    taken = {slot: choice for slot, choice in chosen.items() if choice != OPEN}
    filled = {slot: Choice(name=name) for slot, name in {**_PLAIN, **load_preset(preset).slots}.items()} | taken
    filled |= {slot: Choice(name=name) for slot, name in catalog.slots("mixer", filled["mixer"].address()).items()}
    num_experts = split_size(size)[1]
    if num_experts:
        filled["mlp"] = Choice(name="moe", options={"num_experts": num_experts})
    return filled | taken
