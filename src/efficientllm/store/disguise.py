"""Texts without whose they are: hosts, users, paths, device identifiers, addresses and process ids as pseudonyms.

One name gets one pseudonym everywhere in a study, so that what belonged together still does; two studies have other
ones, so that nobody can look a guess up: the key is a hash of the study's own, undisguised files.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_DEVICE = re.compile(rf"\b(?:(GPU|MIG)-)?{_UUID}(?:/\d+/\d+)?")
#: A path from the root, from home, or from here; one step below the root says nothing (`/s` of a rate).
_PATH = re.compile(
    r"(?<![\w.~/:%-])(?:~[\w.-]*(?:/[\w.@%+=,-]+)+|\.{1,2}(?:/[\w.@%+=,-]+)+|(?:/[\w.@%+=,-]+){2,}|/(?:root|home)\b)/?"
    r"|\b[A-Za-z]:\\[^\s'\"<>|]+"
)
_URL = re.compile(r"\b(https?://)(?!(?:localhost|127\.0\.0\.1)\b)([^/\s'\"]+)")
_ADDRESS = re.compile(r"(?<![\d.])(?!127\.0\.0\.1\b|0\.0\.0\.0\b)\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
_PROCESS = re.compile(r"\b(pids?|process(?:es)?)([ =:#]+)\d+(?:, ?\d+)*", re.IGNORECASE)
_HOME_OF = re.compile(r"(?:/home/|/Users/|\\Users\\)([\w.-]+)")
#: Where a path holds one of these, its last part is a published file's and worth reading.
_PUBLISHED = ("site-packages", "dist-packages", "efficientllm")


class Disguise:
    """Gives pseudonyms, the same one for the same name.

    Args:
        key: what pseudonyms are made with.
        names: hosts, users and identifiers that are hidden wherever they stand as words of their own.
    """

    def __init__(self, key: bytes, names: Iterable[str]) -> None:
        self._key = key
        known = sorted({name for name in names if name}, key=len, reverse=True)
        parts = "|".join(re.escape(name) for name in known)
        self._names = re.compile(rf"(?<![A-Za-z0-9])(?:{parts})(?![A-Za-z0-9])") if known else None

    def pseudonym(self, name: str, digits: int = 12) -> str:
        """Return the hexadecimal pseudonym of a name."""
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:digits]

    def name(self, name: str) -> str:
        """Return what stands for a host, a user or a device; the kind of a device stays to be seen."""
        kind = name.partition("-")[0] if re.match(r"(?:GPU|MIG|cpu|fake)-", name) else "anonymous"
        return f"{kind}-{self.pseudonym(name)}"

    def path(self, path: str) -> str:
        """Return what stands for a path: its end only where that is a published file's."""
        last = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
        end = f"/{last.name}" if any(word in path for word in _PUBLISHED) else last.suffix
        return f"./anonymous/{self.pseudonym(path)}{end}"

    def text(self, text: str, *, addresses: bool = True) -> str:
        """Return a text with all of it hidden; `addresses` says whether hosts in URLs are hidden too.

        >>> Disguise(b"", ["tower"]).text("host tower, file /home/ada/x.txt, 5 nats/token")
        'host anonymous-a7e38919f0bd, file ./anonymous/9a735e01f37f.txt, 5 nats/token'
        """
        if addresses:
            text = _URL.sub(lambda found: f"{found[1]}anonymous-{self.pseudonym(found[2])}", text)
            text = _ADDRESS.sub(lambda found: f"anonymous-{self.pseudonym(found[0])}", text)
        text = _PATH.sub(lambda found: found[0] if _is_ours(found[0]) else self.path(found[0]), text)
        if self._names is not None:
            text = self._names.sub(lambda found: self.name(found[0]), text)
        text = _DEVICE.sub(lambda found: self.name(found[0]), text)
        return _PROCESS.sub(lambda found: f"{found[1]}{found[2]}{self.pseudonym(found[0])}", text)


def users_in(text: str) -> set[str]:
    """Return the users whose home folders a text names.

    >>> users_in("cannot read /home/ada/models")
    {'ada'}
    """
    return set(_HOME_OF.findall(text))


def _is_ours(path: str) -> bool:
    return path.startswith("./anonymous/")
