"""Prints lines that are never cut, in ASCII where the console knows no more."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

#: For consoles that cannot write the signs.
_ASCII = {
    **dict(zip("▲▼≈◆·–×±µ•…", ("+", "-", "~", "*", ",", "-", "x", "+-", "u", "-", "..."), strict=True)),
    **dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", (f"[{digit}]" for digit in range(10)), strict=True)),
}  # fmt: skip


class Printer:
    """A console and what it can write."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ascii = not console.encoding.lower().replace("-", "").startswith("utf")

    def line(self, text: Text) -> None:
        """Print one line as it is, never wrapped or cut."""
        self._console.print(self._writable(text), soft_wrap=True, highlight=False)

    def item(self, sentence: str, *, style: str = "", bullet: str = "•") -> None:
        """Print a sentence, wrapped at the console's width, its further lines under its first word."""
        head = self._writable(Text(f"{bullet} " if bullet else ""))
        body = self._writable(Text(sentence, style=style))
        for index, part in enumerate(body.wrap(self._console, max(20, self._console.width - len(head)))):
            part.rstrip()
            self.line((head if index == 0 else Text(" " * len(head))) + part)

    def _writable(self, text: Text) -> Text:
        if not self._ascii:
            return text
        plain = text.plain
        for sign, instead in _ASCII.items():
            plain = plain.replace(sign, instead)
        return Text(plain.encode("ascii", "replace").decode("ascii"), style=text.style)
