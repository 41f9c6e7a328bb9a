"""Small samples for the examples of readers."""

from __future__ import annotations


def example_pairs(count: int = 120) -> list[tuple[str, str]]:
    """Return questions, all different, with their responses, in characters of one to four bytes.

    >>> example_pairs(2)[1]
    ('What follows 1 café, 漢字 🙂?', 'It is 2.')
    """
    return [(f"What follows {index} café, 漢字 🙂?", f"It is {index + 1}.") for index in range(count)]
