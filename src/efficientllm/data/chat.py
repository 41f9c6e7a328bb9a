"""How a sample becomes text: a model's own chat template, or none; and which of that text is learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from efficientllm.data._jinja import compiled
from efficientllm.data.instructions._contract import Message, Sample
from efficientllm.errors import DataError

#: What lies between a prompt and its response where there is no template.
_GAP = "\n\n"
#: What says that a folder holds a model trained here, which has seen no template.
_OWN_MODEL = "efficientllm.json"

Turns = list[tuple[str, bool]]


class Template(Protocol):
    """What turns a sample into pieces of text."""

    @property
    def name(self) -> str:
        """What a record calls it."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of what decides about its text."""
        ...

    @property
    def marked(self) -> bool:
        """Whether its text spells special tokens itself; else the end of text follows each learned piece."""
        ...

    def turns(self, sample: Sample) -> Turns:
        """Return the sample as pieces of text, each with whether it is learned.

        The assistant's words and the end token that follows are learned, all else is not. The last learned piece is
        the last response, and what comes before it is exactly what a prompt alone is given as.

        Raises:
            DataError: the template refuses the sample.
        """
        ...


def template_of(folder: Path | None, chosen: Literal["model", "plain"]) -> Template:
    """Return the template of a model's folder; the plain one where it is chosen, or for a model trained here.

    Raises:
        DataError: a foreign model without a chat template, or one that cannot be read.
    """
    if chosen == "plain" or folder is None or (folder / _OWN_MODEL).is_file():
        return PlainTemplate()
    configuration = _configuration(folder)
    source = _source(folder, configuration)
    if not source:
        raise DataError(
            f"model folder {str(folder)!r} has no chat template (neither chat_template in tokenizer_config.json nor "
            "chat_template.jinja). Set chat_template: plain, or add one."
        )
    return ChatTemplate(source, _special_tokens(configuration), str(folder))


@dataclass(frozen=True)
class PlainTemplate:
    """No template: prompt, an empty line, response, end of text."""

    name: str = "plain"
    sha256: str = "plain"
    marked: bool = False

    def turns(self, sample: Sample) -> Turns:
        """Return the messages as they are, each that is given with an empty line after it."""
        return [
            (message.content, True) if message.role == "assistant" else (message.content + _GAP, False)
            for message in sample.messages
        ]


class ChatTemplate:
    """A Jinja template as model folders carry it.

    Args:
        source: the template.
        special_tokens: what it may use by name: `bos_token`, `eos_token` …
        where: for errors, the model's folder.
    """

    marked = True

    def __init__(self, source: str, special_tokens: Mapping[str, str], where: str) -> None:
        self.name = "model"
        self.sha256 = hashlib.sha256(json.dumps([source, dict(special_tokens)], sort_keys=True).encode()).hexdigest()
        self._where, self._special_tokens = where, dict(special_tokens)
        self._render: Callable[..., str] = compiled(source, where)

    def turns(self, sample: Sample) -> Turns:
        """Return what is given and what is learned, in turn.

        Each response is what the text has more, with it, than when the template asks for it. A template that rewrites
        earlier turns (it drops their reasoning, say) has no such text for them: then the last response alone is
        learned.

        Raises:
            DataError: the template refuses the sample, or does not write the last response after what asks for it.
        """
        whole, last = self._text(sample.messages), len(sample.messages) - 1
        turns, done = Turns(), 0
        for place, message in enumerate(sample.messages):
            if message.role != "assistant":
                continue
            before = self._text(sample.messages[:place], asks=True)
            through = whole if place == last else self._text(sample.messages[: place + 1])
            if not (whole.startswith(through) and through.startswith(before) and done <= len(before) < len(through)):
                if place == last:
                    return self._last_alone(sample)
                continue
            turns += [(before[done:], False), *_told(through[len(before) :])]
            done = len(through)
        return [(text, learned) for text, learned in turns if text]

    def _last_alone(self, sample: Sample) -> Turns:
        """Return the turns of a template that does not begin its text with what asks for the last response."""
        whole = self._text(sample.messages)
        before, response = self._text(sample.messages[:-1], asks=True), sample.messages[-1].content.strip()
        place = whole.rfind(response) if response else -1
        if place < 0:
            raise DataError(
                f"the chat template of {self._where!r} does not write the assistant's words as they are. "
                "Set chat_template: plain, or mend it."
            )
        # What a model is asked with counts: the response follows it, whatever the template writes before it in between.
        return [(before, False), *_told(whole[place:])]

    def _text(self, messages: Sequence[Message], asks: bool = False) -> str:
        plain: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
        # `transformers` gives templates these two as None, and some ask whether they are.
        given: dict[str, Any] = {"tools": None, "documents": None, **self._special_tokens}
        return self._render(messages=plain, add_generation_prompt=asks, **given)


def _told(text: str) -> Turns:
    r"""Return a response as learned up to its end token, and the white space that a template writes after that, not.

    >>> _told("4<|im_end|>\n")
    [('4<|im_end|>', True), ('\n', False)]
    """
    told = text.rstrip()
    return [(told, True), (text[len(told) :], False)]


def _configuration(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Mend it, or set chat_template: plain.") from error
    return read if isinstance(read, dict) else {}


def _source(folder: Path, configuration: Mapping[str, Any]) -> str:
    """Return the template's text: a file of its own first, then the configuration's, the one called `default`."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    given = configuration.get("chat_template")
    if isinstance(given, list):
        named = {str(item.get("name")): str(item.get("template", "")) for item in given if isinstance(item, dict)}
        return named.get("default") or next(iter(named.values()), "")
    return given if isinstance(given, str) else ""


def _special_tokens(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Return the tokens that the configuration names (`bos_token` …), as text."""
    tokens = {}
    for key, value in configuration.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            tokens[key] = content
    return tokens
