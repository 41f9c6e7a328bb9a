"""The choice of one entry for a slot: its name, its options and, for a user's own file, the file's hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from efficientllm import registry
from efficientllm.errors import UserError, did_you_mean

Scalar = bool | int | float | str
Entry = TypeVar("Entry")


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which entry fills a slot.

    In a recipe either a plain name (`mixer: mla`), the path of a user's own file (`mixer: ./my_mixer.py`), or a
    mapping with options (`mixer: {name: mla, latent_rank: 64}`).

    Attributes:
        name: the entry's name; for a user's file the file's stem.
        options: keyword options handed to the entry.
        path: the user's file as given, empty for an entry of the package. Not part of a trial's identity.
        sha256: hash of the user's file, empty for an entry of the package.
    """

    name: str
    options: dict[str, Scalar] = {}
    path: str = ""
    sha256: str = ""

    def address(self) -> str:
        """Return what `registry.load` takes: the path of a user's file, else the name."""
        return self.path or self.name

    def label(self) -> str:
        """Return the choice as a table shows it.

        >>> Choice(name="mla", options={"latent_rank": 64}).label()
        'mla(latent_rank=64)'
        """
        if not self.options:
            return self.name
        inner = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({inner})"


def refuse_unknown_options(kind: str, choice: Choice, known: Sequence[str]) -> None:
    """Refuse an option that the chosen entry does not have.

    Raises:
        UserError: there is one.
    """
    for key in choice.options:
        if key not in known:
            all_known = f"Known: {', '.join(known)}." if known else "It has no options."
            raise UserError(f"unknown option {key!r} of {kind} {choice.name}. {did_you_mean(key, known)}{all_known}")


def load_chosen(kind: str, choice: Choice, type_: type[Entry], options_of: Callable[[Entry], Sequence[str]]) -> Entry:
    """Return the entry of a choice, once its options are known to be its own.

    Args:
        kind: of entry.
        choice: which one.
        type_: what such an entry is.
        options_of: returns the names of an entry's options.

    Raises:
        UnknownNameError: there is none of this name.
        UserError: an option that it does not have, or a file whose ENTRY is of another kind.
    """
    entry = registry.load(kind, choice.address())
    if not isinstance(entry, type_):
        raise UserError(f"ENTRY of {choice.address()} is a {type(entry).__name__}, not a {type_.__name__}.")
    refuse_unknown_options(kind, choice, options_of(entry))
    return entry
