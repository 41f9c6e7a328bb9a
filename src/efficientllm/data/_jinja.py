"""Chat templates in Jinja, with what `transformers` gives them and nothing more."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from efficientllm.errors import DataError

#: The day that a template may name: always the same, so that the same samples are the same text tomorrow. It is what
#: Llama's templates fall back to.
_TODAY = datetime.datetime(2024, 7, 26)


def compiled(source: str, where: str) -> Callable[..., str]:
    """Return a function that renders a template with the variables that it is given.

    A template comes with a model from anywhere, so that it is run in a sandbox.

    Args:
        source: the template.
        where: for errors, the model's folder.

    Raises:
        DataError: the template is not Jinja; when called, it refuses what it is given.
    """
    try:
        template = _environment().from_string(source)
    except jinja2.TemplateError as error:
        raise _refused(where, "cannot be read", error) from error

    def render(**variables: Any) -> str:
        try:
            return template.render(**variables)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise _refused(where, "refuses a sample", error) from error

    return render


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`, by which newer templates mark responses: the text is what is in it."""

    tags = {"generation"}  # noqa: RUF012 — as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what is in the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _refused(where: str, what: str, error: Exception) -> DataError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"the chat template of {where!r} {what}: {first} Set chat_template: plain, or mend the data.")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return _TODAY.strftime(layout)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    # Jinja's own filter escapes HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)
