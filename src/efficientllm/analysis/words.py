"""How a place in a study is said."""

from __future__ import annotations

#: Stands for a window where a section compares whole training curves.
EQUAL_BUDGETS = "equal_budgets"
#: Begins a window where a section has a column for each text, or for each set of questions; the metric follows.
BY_TEXT = "by_text"
#: Begins a window where a section stands beside that of another stage, whose name follows.
AGAINST = "against"
#: Begins a window where a section is over all points of a grid; what it shows follows.
GRID = "grid"

#: Coordinates that are counts of what the word says.
_COUNTED = {"tokens": "tokens", "new_tokens": "new tokens"}


def where(stage: str, window: str) -> str:
    """Return a section's name: the stage for training, else the window with its coordinates.

    >>> where("pretrain", "train"), where("inference", "decode batch=1 tokens=8192")
    ('pretrain', 'decode, batch 1, 8192 tokens')
    >>> where("inference", "generate batch=1 new_tokens=64 tokens=512"), where("tuned", "against common")
    ('generate, batch 1, 512 tokens, 64 new tokens', 'against common')
    """
    name, *coordinates = window.split()
    coordinates.sort(key=lambda coordinate: coordinate.startswith("new_tokens"))  # last, as they come
    if name == "train":
        return stage
    if name == EQUAL_BUDGETS:
        return "at equal tokens, time and energy"
    if name == BY_TEXT:
        return " ".join(coordinates).replace("_", " ")
    if name == AGAINST:
        return window
    if name == GRID:
        return window.partition(" ")[2]
    said = []
    for coordinate in coordinates:
        key, _, value = coordinate.partition("=")
        said.append(f"{value} {_COUNTED[key]}" if key in _COUNTED else f"{key} {value}")
    return ", ".join([name, *said])


def capital(text: str) -> str:
    """Return a text with a capital first letter, the rest as it is.

    >>> capital("decode of mHA")
    'Decode of mHA'
    """
    return text[:1].upper() + text[1:]
