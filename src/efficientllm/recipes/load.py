"""YAML -> Recipe. Reading has no effects; every error quotes file and key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from efficientllm import catalog
from efficientllm.errors import RecipeError, UnknownNameError, did_you_mean
from efficientllm.recipes.override import apply_overrides, with_words, words_of
from efficientllm.recipes.recipe import ORDERS, Recipe, Select, Stage
from efficientllm.recipes.select import completed
from efficientllm.recipes.yaml import parse_mapping
from efficientllm.records.choice import Choice
from efficientllm.records.protocol import PROTOCOLS, Protocol
from efficientllm.records.settings import SETTINGS, Settings

_TOP = ("name", "title", "device", "repeats", "seed", "order", "protocol", "baseline", "stages")
_STAGE = (
    "name",
    "workload",
    "axes",
    "from",
    "only",
    "baseline",
    "per_device",
    "skip",
    "select",
    "repeats",
    "one_at_a_time",
)
_DEVICES = ("auto", "cpu", "cuda")
#: In place of an axis' list: every entry of its folder, so that a new one is covered by being there.
_ALL = "all"


def load_recipe(address: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by the name of a built-in one or by the path of a YAML file.

    Args:
        address: `quickstart`, `architecture/quality`, or `./attention.yaml`.
        overrides: `key=value` words of the command line, applied in turn.

    Raises:
        RecipeError: it cannot be read, does not parse, or has an unknown key or an impossible value.
        UnknownNameError: there is no such built-in recipe or workload.
    """
    path = recipe_path(address)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {error}. Give a YAML file or a built-in recipe.") from error
    built_in = catalog.PACKAGE / catalog.FOLDERS["recipe"]
    inside = path.relative_to(built_in).with_suffix("").parts if path.is_relative_to(built_in) else (path.stem,)
    return recipe_from_text(text, path.name, default_name="-".join(inside), overrides=overrides)


def recipe_path(address: str) -> Path:
    """Return the file that an address names."""
    if address.endswith((".yaml", ".yml")):
        return Path(address)
    return catalog.path_of("recipe", address)


def recipe_from_text(
    text: str, file: str, *, default_name: str = "recipe", overrides: list[str] | None = None
) -> Recipe:
    """Build a recipe from YAML text; `file` is what errors quote.

    A text that was kept beside results carries the words that it was run with, and they hold here too.
    """
    raw = parse_mapping(text, file)
    if "stages" not in raw:
        raw = _as_one_stage(raw)
    words = [*words_of(text), *(overrides or [])]
    raw = apply_overrides(raw, words, file)
    _refuse_unknown(raw, _TOP, file, "")
    stages = raw["stages"]
    if not isinstance(stages, list) or not stages:
        raise RecipeError(f"{file}: stages: needs a list of at least one stage.")
    parsed = tuple(_stage(item, i, file) for i, item in enumerate(completed(stages, file)))
    tuned = {stage.select.source for stage in parsed if stage.select is not None}
    parsed = tuple(msgspec.structs.replace(stage, tunes=stage.name in tuned) for stage in parsed)
    _check_sources(parsed, file)
    return Recipe(
        name=_name(raw.get("name", default_name), file),
        file=file,
        stages=parsed,
        text=with_words(text, words),
        title=_typed(raw, "title", str, "", file),
        device=_one_of(raw, "device", _DEVICES, "auto", file),
        repeats=_whole(raw, "repeats", 3, file, 1),
        seed=_whole(raw, "seed", 0, file, 0),
        order=_one_of(raw, "order", ORDERS, "interleaved", file),
        protocol=_protocol(raw.get("protocol"), file),
        baseline=_typed(raw, "baseline", dict, {}, file),
    )


def _as_one_stage(raw: dict[str, Any]) -> dict[str, Any]:
    """A one-stage recipe needs no stage: what is not a top-level key belongs to its only stage."""
    top = {key: value for key, value in raw.items() if key in _TOP}
    return {**top, "stages": [{key: value for key, value in raw.items() if key not in _TOP}]}


def _stage(raw: Any, index: int, file: str) -> Stage:
    if not isinstance(raw, dict):
        raise RecipeError(f"{file}: stages[{index}]: expected keys and values, got {raw!r}.")
    workload = raw.get("workload")
    if workload not in SETTINGS:
        known = ", ".join(sorted(SETTINGS))
        if workload is None:
            raise RecipeError(f"{file}: stages[{index}].workload: missing. Known: {known}.")
        raise UnknownNameError("workload", str(workload), SETTINGS, f"{file}: stages[{index}].workload")
    kind = SETTINGS[workload]
    name = str(raw.get("name", workload))
    fields = kind.__struct_fields__
    _refuse_unknown(raw, (*_STAGE, *fields), file, f"stages.{name}")
    axes = _axes(raw.get("axes", {}), kind, file, name)
    settings = {key: value for key, value in raw.items() if key in fields}
    for key in axes:
        if key in settings:
            raise RecipeError(f"{file}: stages.{name}.{key}: is also an axis. Keep one of the two.")
    per_device, axes_on = _per_device(raw.get("per_device", {}), kind, axes, file, name)
    return Stage(
        name=name,
        kind=kind,
        settings=settings,
        axes=axes,
        one_at_a_time=_typed(raw, "one_at_a_time", bool, False, f"{file}: stages.{name}"),
        source=str(raw.get("from", "")),
        only=_only(raw, file, name),
        baseline=_typed(raw, "baseline", dict, {}, f"{file}: stages.{name}"),
        per_device=per_device,
        axes_on=axes_on,
        skip=_skips(raw.get("skip", []), file),
        select=msgspec.convert(raw["select"], Select) if "select" in raw else None,
        repeats=_whole(raw, "repeats", 0, f"{file}: stages.{name}", 0),
    )


def _only(raw: dict[str, Any], file: str, stage: str) -> dict[str, Any] | Literal["first"]:
    only = raw.get("only", {})
    if only != "first" and not isinstance(only, dict):
        raise RecipeError(f"{file}: stages.{stage}.only: expected `first` or `key: value`, got {only!r}.")
    if only and "from" not in raw:
        raise RecipeError(f"{file}: stages.{stage}.only: chooses among what another stage left. Name it with `from`.")
    return "first" if only == "first" else only


def _axes(raw: Any, kind: type[Settings], file: str, stage: str) -> dict[str, tuple[Any, ...]]:
    where = f"stages.{stage}.axes"
    if not isinstance(raw, dict):
        raise RecipeError(f"{file}: {where}: expected `key: [values]`, got {raw!r}.")
    _refuse_unknown({key.partition(".")[0]: 0 for key in raw}, kind.__struct_fields__, file, where)
    slots = {field.name for field in msgspec.structs.fields(kind) if field.type is Choice}
    raw = {key: catalog.names(key) if values == _ALL and key in slots else values for key, values in raw.items()}
    for key, values in raw.items():
        if not isinstance(values, list) or not values:
            raise RecipeError(f"{file}: {where}.{key}: expected a list of at least one value, got {values!r}.")
        if len({repr(value) for value in values}) < len(values):
            raise RecipeError(f"{file}: {where}.{key}: a value stands twice in {values!r}.")
    return {key: tuple(values) for key, values in raw.items()}


def _per_device(
    raw: Any, kind: type[Settings], axes: Mapping[str, Any], file: str, stage: str
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, tuple[Any, ...]]]]:
    """Return kind of device -> settings that hold on it, and kind of device -> axes that do."""
    where = f"stages.{stage}.per_device"
    if not isinstance(raw, dict) or not all(isinstance(value, dict) for value in raw.values()):
        raise RecipeError(f"{file}: {where}: expected `cuda: {{key: value}}`, got {raw!r}.")
    _refuse_unknown(raw, _DEVICES[1:], file, where)
    settings, replaced = {}, {}
    for device, given in raw.items():
        _refuse_unknown(given, ("axes", *kind.__struct_fields__), file, f"{where}.{device}")
        settings[device] = {key: value for key, value in given.items() if key != "axes"}
        own = _axes(given.get("axes", {}), kind, file, f"{stage}.per_device.{device}")
        _refuse_unknown(own, tuple(axes), file, f"{where}.{device}.axes")
        if own:
            replaced[device] = own
    return settings, replaced


def _skips(raw: Any, file: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(raw, list):
        raise RecipeError(f"{file}: skip: expected a list, got {raw!r}.")
    for item in raw:
        if not isinstance(item, dict) or not str(item.get("because", "")).strip():
            raise RecipeError(f"{file}: skip: {item!r} needs a `because`.")
    return tuple(raw)


def _check_sources(stages: tuple[Stage, ...], file: str) -> None:
    seen: list[str] = []
    for stage in stages:
        if stage.name in seen:
            raise RecipeError(f"{file}: stages.{stage.name}: two stages have this name. Give each a `name`.")
        selects = stage.select.source if stage.select else ""
        for key, source in (("from", stage.source), ("select.from", selects)):
            if source and source not in seen:
                known = ", ".join(seen) or "none"
                raise RecipeError(
                    f"{file}: stages.{stage.name}.{key}: no earlier stage {source!r}. "
                    f"{did_you_mean(source, seen)}Earlier stages: {known}."
                )
        seen.append(stage.name)


def _protocol(raw: Any, file: str) -> Protocol:
    if raw is None:
        return PROTOCOLS["standard"]
    given = {"name": raw} if isinstance(raw, str) else raw
    if not isinstance(given, dict):
        raise RecipeError(f"{file}: protocol: expected a name or keys and values, got {raw!r}.")
    name = given.get("name", "standard")
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", str(name), PROTOCOLS, f"{file}: protocol")
    _refuse_unknown(given, Protocol.__struct_fields__, file, "protocol")
    merged = {**msgspec.to_builtins(PROTOCOLS[name]), **given}
    try:
        return msgspec.convert(merged, Protocol)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{file}: protocol: {error}.") from error


def _refuse_unknown(raw: Mapping[str, Any], known: tuple[str, ...], file: str, where: str) -> None:
    for key in raw:
        if key not in known:
            place = f"{where}.{key}" if where else str(key)
            hint = did_you_mean(str(key), known)
            raise RecipeError(f"{file}: {place}: unknown key. {hint}Known: {', '.join(sorted(known))}.")


def _name(value: Any, file: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(value)):
        raise RecipeError(f"{file}: name: {value!r} is no folder name. Use letters, digits, `-`, `_` and `.`.")
    return str(value)


def _typed(raw: dict[str, Any], key: str, kind: type, default: Any, file: str) -> Any:
    value = raw.get(key, default)
    if not isinstance(value, kind):
        raise RecipeError(f"{file}: {key}: expected {kind.__name__}, got {value!r}.")
    return value


def _whole(raw: dict[str, Any], key: str, default: int, file: str, least: int) -> int:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**6:
        raise RecipeError(f"{file}: {key}: expected a whole number from {least} to 1000000, got {value!r}.")
    return value


def _one_of(raw: dict[str, Any], key: str, known: tuple[str, ...], default: str, file: str) -> str:
    value = str(raw.get(key, default))
    if value not in known:
        raise RecipeError(
            f"{file}: {key}: {value!r} is none of {', '.join(known)}. {did_you_mean(value, known)}".strip()
        )
    return value
