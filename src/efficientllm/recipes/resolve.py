"""Plain values -> typed settings: choices looked up, bounds checked, errors with file and key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from efficientllm import catalog
from efficientllm.errors import RecipeError, UnknownNameError, UserError
from efficientllm.records.choice import Choice
from efficientllm.records.settings import Settings, slot_of
from efficientllm.registry import file_sha256

#: Kinds of data that a path alone can name.
_READ_BY_PATH = ("corpus", "instructions", "questions")


def resolve(kind: type[Settings], values: dict[str, Any], file: str, where: str) -> Settings:
    """Convert a stage's plain values to its settings struct.

    Raises:
        RecipeError: a value of the wrong type or out of bounds, or values that do not go together.
        UnknownNameError: a choice that no entry has.
    """
    plain = dict(values)
    for field in msgspec.structs.fields(kind):
        if plain.get(field.name) is not None:
            plain[field.name] = _chosen(field, plain[field.name], f"{file}: {where}.{field.name}")
    try:
        return msgspec.convert({**plain, "workload": kind.__struct_config__.tag}, kind)
    except msgspec.ValidationError as error:
        raise RecipeError(_sentence(str(error), plain, f"{file}: {where}")) from error
    except UnknownNameError:
        raise
    except UserError as error:  # values that do not go together; the message names their keys
        raise RecipeError(f"{file}: {where}: {error}") from error


def _chosen(field: msgspec.structs.FieldInfo, value: Any, where: str) -> Any:
    """Look up what a field chooses: one entry, a list of them, or one for each name; other values as they are."""
    slot = slot_of(field.name)
    if field.type in (Choice, Choice | None):
        return _choice(slot, value, where)
    if field.type == tuple[Choice, ...] and isinstance(value, list | tuple):
        return [_choice(slot, one, f"{where}[{i}]") for i, one in enumerate(value)]
    if field.type == dict[str, Choice] and isinstance(value, dict):
        return {name: _choice(slot, one, f"{where}.{name}") for name, one in value.items()}
    return value


def _choice(slot: str, value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise RecipeError(f"{where}: expected a name, a path, or {{name: …, option: value}}, got {value!r}.")
    name, options = value["name"], {key: option for key, option in value.items() if key != "name"}
    if slot in _READ_BY_PATH and _is_text_path(slot, name):
        return {"name": name, "options": options}
    path = catalog.path_of(slot, name, where)
    if not catalog.is_path(slot, name):
        return {"name": name, "options": options}
    return {"name": path.stem, "options": options, "path": name, "sha256": file_sha256(path)}


def _is_text_path(slot: str, name: str) -> bool:
    """Data may be given by their path; their reader follows from what is there."""
    if name.endswith(".py") or name in catalog.names(slot):
        return False
    return "/" in name or bool(Path(name).suffix) or Path(name).exists()


def _sentence(error: str, values: dict[str, Any], where: str) -> str:
    """Turn msgspec's ``Expected `int`, got `str` - at `$.tokens``` into our kind of line."""
    match = re.search(r"^(.*?)(?: - at `\$\.?(.*)`)?$", error)
    assert match is not None
    what, key = match[1], match[2] or ""
    value: Any = values
    for part in re.findall(r"[A-Za-z_]\w*|\d+", key):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list | tuple) and part.isdigit():
            value = value[int(part)]
    place = f"{where}.{key}" if key else where
    return f"{place}: {what[:1].lower()}{what[1:]}; the value is {value!r}."
