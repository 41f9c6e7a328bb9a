"""Points of inference: what one window is about, and whole grids of them in one line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import msgspec

from efficientllm.errors import UserError
from efficientllm.records.model_settings import Length, Rows

#: Kinds of windows that a grid has points in.
Kind = Literal["arithmetic", "prefill", "decode", "generate"]
_Kinds = tuple[Kind, ...]
KINDS: _Kinds = get_args(Kind)
_Some = msgspec.Meta(min_length=1)


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One window of inference: so many sequences, with so many tokens in the prompt or in the cache."""

    batch: Rows = 1
    tokens: Length = 512

    def coordinates(self) -> dict[str, int]:
        """Return where its window lies."""
        return {"batch": self.batch, "tokens": self.tokens}


class Generation(Grid, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One window of whole requests: a batch of prompts in, `new_tokens` out of each, the first by the prompt itself."""

    new_tokens: Length = 64

    def coordinates(self) -> dict[str, int]:
        """Return where its window lies.

        >>> Generation(batch=8).coordinates()
        {'batch': 8, 'tokens': 512, 'new_tokens': 64}
        """
        return {**super().coordinates(), "new_tokens": self.new_tokens}


class GridAxes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A grid in one line: every batch with every prompt, and with every output length where whole requests are timed.

    Attributes:
        batch: sequences.
        tokens: in the prompt, or in the cache.
        new_tokens: output lengths, of the `generate` windows alone.
        windows: what is timed at each point; `arithmetic` times nothing, but holds the results to float32's.
    """

    batch: Annotated[tuple[Rows, ...], _Some] = (1,)
    tokens: Annotated[tuple[Length, ...], _Some] = (512,)
    new_tokens: Annotated[tuple[Length, ...], _Some] = (64,)
    windows: Annotated[_Kinds, _Some] = ("prefill", "decode", "generate")

    def points(self) -> tuple[Grid, ...]:
        """Return batch × tokens, the smallest batch first.

        >>> [point.coordinates() for point in GridAxes(batch=(1, 8)).points()]
        [{'batch': 1, 'tokens': 512}, {'batch': 8, 'tokens': 512}]
        """
        return tuple(Grid(batch=b, tokens=t) for b, t in itertools.product(self.batch, self.tokens))

    def generations(self) -> tuple[Generation, ...]:
        """Return batch × tokens × new_tokens."""
        each = itertools.product(self.batch, self.tokens, self.new_tokens)
        return tuple(Generation(batch=b, tokens=t, new_tokens=n) for b, t, n in each)


def spelled_out(grids: Sequence[GridAxes]) -> dict[Kind, tuple[Grid, ...]]:
    """Return the points of some grids by kind of window, each once; those of `generate` are `Generation`s.

    >>> {kind: len(points) for kind, points in spelled_out([GridAxes(batch=(1, 8), windows=("decode",))]).items()}
    {'arithmetic': 0, 'prefill': 0, 'decode': 2, 'generate': 0}
    """
    found: dict[Kind, dict[Grid, None]] = {kind: {} for kind in KINDS}
    for grid in grids:
        for kind in grid.windows:
            found[kind] |= dict.fromkeys(grid.generations() if kind == "generate" else grid.points())
    return {kind: tuple(points) for kind, points in found.items()}


def refuse_twice(name: str, points: Sequence[Grid]) -> None:
    """Refuse a point that stands twice: its windows could not be told apart.

    Raises:
        UserError: there is one.
    """
    seen: set[Grid] = set()
    for point in points:
        if point in seen:
            said = ", ".join(f"{key} {value}" for key, value in point.coordinates().items())
            raise UserError(f"{name}: the point {said} stands twice. Leave one out.")
        seen.add(point)
