"""YAML 1.2 text to plain values, with the line in every error."""

from __future__ import annotations

from typing import Any

from efficientllm.errors import RecipeError


def parse_mapping(text: str, file: str) -> dict[str, Any]:
    """Parse a YAML document that must be keys and values.

    Raises:
        RecipeError: not YAML (with the line), a key twice, or not a mapping.
    """
    value = _parse(text, file)
    if not isinstance(value, dict):
        raise RecipeError(f"{file}: expected keys and values, got {value!r}. See `efficientllm where quickstart`.")
    return value


def parse_value(text: str, where: str) -> Any:
    """Parse what stands right of `=` in a `key=value` word.

    >>> parse_value("1e-4", ""), parse_value("[mha, mla]", ""), parse_value("mha,mla", "")
    (0.0001, ['mha', 'mla'], 'mha,mla')
    """
    return _parse(text, where)


def _parse(text: str, where: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise RecipeError(f"{where}:{line} is not YAML: {problem}.") from error
