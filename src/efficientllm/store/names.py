"""Names that come from outside and become file names: a study's, a measurement's, a trial's."""

from __future__ import annotations

import re

from efficientllm.errors import ResultsError

#: Ids are made by the software: hex digits, dashes and what a foreign record may reasonably carry; so short that a
#: plain tar holds `measurements/<id>.json`.
ID = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,79}"
_MOST_BYTES = 150


def check_study_name(name: str) -> str:
    r"""Return a study's name if it can be a folder's, anywhere.

    Raises:
        ResultsError: empty, hidden, too long, or with a path separator or a control character in it.

    >>> check_study_name("attention tiny")
    'attention tiny'
    >>> check_study_name("../attention")
    Traceback (most recent call last):
    efficientllm.errors.ResultsError: study name '../attention' has '/' in it. Give a plain name, not a path.
    """
    for sign in "/\\:":
        if sign in name:
            raise ResultsError(f"study name {name!r} has {sign!r} in it. Give a plain name, not a path.")
    if not name.isprintable() or not name.strip():
        raise ResultsError(
            f"study name {name!r} is empty or not printable. Give a plain name, for example 'attention'."
        )
    if name != name.strip() or name.startswith((".", "-")):
        raise ResultsError(f"study name {name!r} begins with a dot, a dash or a blank, or ends with one. Take it away.")
    if len(name.encode()) > _MOST_BYTES:
        raise ResultsError(f"study name {name[:20]!r}… is longer than {_MOST_BYTES} bytes. Give a shorter one.")
    return name


def is_safe_id(text: str) -> bool:
    """Return whether an id can be part of a file's name.

    >>> is_safe_id("0f3a-77bc-0"), is_safe_id("../etc"), is_safe_id(""), is_safe_id(".hidden")
    (True, False, False, False)
    """
    return re.fullmatch(ID, text) is not None


def check_id(text: str, what: str) -> str:
    """Return an id that can be part of a file's name.

    Raises:
        ResultsError: it cannot; `what` says what kind of id it is.
    """
    if not is_safe_id(text):
        raise ResultsError(f"{what} {text!r} cannot be a file's name: 80 letters, digits, '_', '-', '.' at most.")
    return text
