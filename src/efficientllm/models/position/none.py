"""No position encoding: the causal mask alone tells the order."""

from __future__ import annotations

from efficientllm.models.position._contract import Position, PositionEntry
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


def no_position(shape: Shape, rotary_dim: int) -> Position:
    """Return the encoding that does nothing."""
    return Position()


ENTRY = PositionEntry(
    card=Card(
        title="No position encoding",
        source="arXiv:2305.19466",
        improves=("compute",),
        costs=("quality",),
    ),
    build=no_position,
)
