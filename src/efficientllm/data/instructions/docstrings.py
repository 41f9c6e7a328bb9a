"""The standard library of the running Python: short functions, and the first line of their docstrings.

There on every machine, no download. The files are those of the corpus `stdlib`, held out alike: what judges
fine-tuning was in no text that a model was pretrained on.
"""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Iterator
from functools import cached_property

from efficientllm.data.corpora._contract import Split
from efficientllm.data.corpora.stdlib import StandardLibrary
from efficientllm.data.instructions._contract import InstructionsEntry, Sample, pair, prompt_of
from efficientllm.errors import DataError

#: A first line that is shorter says nothing ("Test."), a longer one is no summary.
_RESPONSE_CHARACTERS = (12, 120)

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Docstrings:
    """A function without its docstring as the prompt, the docstring's first line as the response.

    Args:
        max_characters: of a prompt; longer functions are left out.
    """

    def __init__(self, max_characters: int = 600) -> None:
        if max_characters < 100:
            raise DataError(f"instructions docstrings: max_characters {max_characters} is less than 100. Raise it.")
        self._library, self._most = StandardLibrary(), max_characters

    @property
    def details(self) -> dict[str, str]:
        """Python's version, the files, and the length of a function."""
        return {**self._library.details, "layout": "docstrings", "max_characters": str(self._most)}

    def samples(self, split: Split) -> Iterator[Sample]:
        """Yield the functions of a split's files in their order, the first of equal ones; none of both splits."""
        seen = set(self._heldout_prompts) if split == "train" else set()
        for sample in self._of(split):
            prompt = prompt_of(sample)
            if prompt not in seen:
                seen.add(prompt)
                yield sample

    def fingerprint(self) -> str:
        """Return that of the library, with the length."""
        return f"{self._library.fingerprint()} {self._most}"

    @cached_property
    def _heldout_prompts(self) -> frozenset[str]:
        return frozenset(prompt_of(sample) for sample in self._of("heldout"))

    def _of(self, split: Split) -> Iterator[Sample]:
        for text in self._library.documents(split):
            for prompt, response in functions(text):
                if len(prompt) <= self._most:
                    yield pair(prompt, response)


def functions(text: str) -> Iterator[tuple[str, str]]:
    r"""Yield the functions of a source that have a docstring: without it, and its first line.

    >>> list(functions('def double(x):\n    "Return twice x."\n\n    return 2 * x\n'))
    [('def double(x):\n    return 2 * x', 'Return twice x.')]
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in old sources
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, _Function) and len(node.body) > 1:
            docstring = ast.get_docstring(node)
            first = docstring.split("\n")[0].strip() if docstring else ""
            if _RESPONSE_CHARACTERS[0] <= len(first) <= _RESPONSE_CHARACTERS[1] and _stands_alone(node):
                prompt = _without_docstring(node, lines)
                if not prompt[0].isspace():  # a string in it is less indented than the function itself
                    yield prompt, first


def _stands_alone(node: _Function) -> bool:
    """Whether no line of the docstring holds anything else."""
    docstring, after = node.body[0], node.body[1]
    return docstring.lineno > node.lineno and after.lineno > (docstring.end_lineno or docstring.lineno)


def _without_docstring(node: _Function, lines: list[str]) -> str:
    docstring = node.body[0]
    head = lines[node.lineno - 1 : docstring.lineno - 1]
    body = lines[docstring.end_lineno : node.end_lineno]
    while body and not body[0].strip():
        body = body[1:]
    return textwrap.dedent("\n".join(head + body)).rstrip()


ENTRY = InstructionsEntry(
    title="The running Python's functions and the first lines of their docstrings", open=Docstrings
)
