"""`key=value` words of the command line, laid over a recipe before it is checked."""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from efficientllm.errors import RecipeError, did_you_mean
from efficientllm.recipes.yaml import parse_value
from efficientllm.records.settings import SETTINGS

_TOP = ("title", "device", "repeats", "seed", "order", "protocol", "baseline", "name")


#: A comment at the end of a kept recipe: the words that it was run with.
_KEPT = "# run with: "


def with_words(text: str, words: list[str]) -> str:
    r"""Return a recipe's text with the words that it was run with, in a comment that `words_of` reads.

    >>> words_of(with_words("title: a\n", ["repeats=1"]))
    ['repeats=1']
    >>> with_words("title: a\n", [])
    'title: a\n'
    """
    if not words:
        return text
    before = text.rstrip("\n").rpartition("\n" + _KEPT)[0] if words_of(text) else text.rstrip("\n")
    return f"{before}\n{_KEPT}{msgspec.json.encode(words).decode()}\n"


def words_of(text: str) -> list[str]:
    """Return the words that a kept recipe was run with; none of a recipe as it was written."""
    last = text.rstrip("\n").rpartition("\n")[2]
    if not last.startswith(_KEPT):
        return []
    try:
        return msgspec.json.decode(last.removeprefix(_KEPT), type=list[str])
    except msgspec.DecodeError:
        return []


def apply_overrides(raw: dict[str, Any], words: list[str], file: str) -> dict[str, Any]:
    """Return the recipe with each word applied.

    A word is `repeats=5` (a key of the recipe), `tokens=1000` (a setting, of every stage that has it),
    `pretrain.tokens=1000` (of one stage), `protocol.max_window_s=2`, or `mixer=[mha,mla]` (an axis).

    Raises:
        RecipeError: no `=`, or a key that neither the recipe nor any of its stages knows.
    """
    raw = copy.deepcopy(raw)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise RecipeError(f"{word!r}: expected key=value, for example repeats=1.")
        _apply(raw, key, parse_value(text, key), file)
    return raw


def _apply(raw: dict[str, Any], key: str, value: Any, file: str) -> None:
    head, _, rest = key.partition(".")
    if key in _TOP:
        raw[key] = value
        for stage in raw.get("stages") or [] if key == "baseline" else ():
            if isinstance(stage, dict):  # another baseline, or none, is meant for all stages
                stage.pop("baseline", None)
    elif head in ("protocol", "baseline") and rest:
        given = raw.get(head)
        raw[head] = {**({"name": given} if isinstance(given, str) else given or {}), rest: value}
    else:
        _apply_to_stages(raw, key, value, file)


def _apply_to_stages(raw: dict[str, Any], key: str, value: Any, file: str) -> None:
    stages = [stage for stage in raw.get("stages") or [] if isinstance(stage, dict)]
    named = {str(stage.get("name", stage.get("workload"))): stage for stage in stages}
    head, _, rest = key.partition(".")
    targets, setting = ([named[head]], rest) if head in named and rest else (stages, key)
    hit = [stage for stage in targets if _takes(stage, setting, alone=len(targets) == 1)]
    if not hit:
        known = sorted({field for stage in targets for field in _fields(stage)} | set(_TOP))
        raise RecipeError(f"{file}: {key}: unknown key. {did_you_mean(setting, known)}Known: {', '.join(known)}.")
    for stage in hit:
        _set(stage, setting, value)


def _fields(stage: dict[str, Any]) -> tuple[str, ...]:
    kind = SETTINGS.get(str(stage.get("workload")))
    return kind.__struct_fields__ if kind else ()


def _takes(stage: dict[str, Any], setting: str, *, alone: bool) -> bool:
    """A stage with `from` takes its model from there, so a word that names no stage passes it by."""
    head = setting.partition(".")[0]
    if head not in _fields(stage):
        return False
    return alone or "from" not in stage or head in stage or head in stage.get("axes", {})


def _set(stage: dict[str, Any], setting: str, value: Any) -> None:
    axes = stage.get("axes") or {}
    if setting in axes:
        stage["axes"] = {**axes, setting: value if isinstance(value, list) or value == "all" else [value]}
        for given in (stage.get("per_device") or {}).values():
            if setting in (given.get("axes") or {}):
                given["axes"] = {key: values for key, values in given["axes"].items() if key != setting}
        return
    head, _, rest = setting.partition(".")
    stage[head] = {**(stage.get(head) or {}), rest: value} if rest else value
    for settings in (stage.get("per_device") or {}).values():
        settings.pop(head, None)  # what is said on the command line holds on every device
