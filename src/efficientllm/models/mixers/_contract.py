"""What a token mixer is: the part of a block in which tokens see each other, and what it remembers of them.

Letters of tensor shapes, in all of `models/`:

    B  rows of the batch            T  tokens of this call (new ones)
    S  tokens seen: those remembered, then the new ones
    D  width of the residual stream N  query heads
    K  key/value heads              G  query heads of one key/value head, N / K
    H  width of a head              W  width of what is remembered for a token and a head
    R  rank of MLA's latent         P  width of MLA's rotary part
    F  inner width of the mlp       V  vocabulary
    C  chunks of a sequence         L  tokens of a chunk
    X  whatever else lies side by side, as the comment beside it says

A recurrent mixer remembers a matrix for each head, BNHW: keys are H wide, values W.

A mixer of your own: subclass `Mixer`, end the file with `ENTRY = MixerEntry(card=..., build=...)`, and run
`efficientllm check my_mixer.py`, which calls the checks of `_checks.py` that every mixer of this folder passes.
A mixer that goes with one position encoding only says so at the top of its file, `SLOTS = {"position": "none"}`: that
one fills the slot where the user names none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from efficientllm.errors import Unsupported
from efficientllm.models.linear import num_parameters
from efficientllm.models.part import Part
from efficientllm.models.position._contract import Position, Positions
from efficientllm.models.shape import Shape
from efficientllm.precision.cache._contract import CacheCoder
from efficientllm.records.card import Card


class State:
    """What a mixer remembers of the tokens so far. Its tensors keep their addresses, so that a step can be captured.

    Attributes:
        length: tokens remembered, as the host knows it.
        fixed_shapes: whether a one-token step must run without the host's `length`: the whole state is read, and what
            lies beyond the device's position is masked. So a captured or compiled step serves every length.
    """

    def __init__(self, *, fixed_shapes: bool) -> None:
        self.length = 0
        self.fixed_shapes = fixed_shapes

    def advance(self, num_tokens: int) -> None:
        """Count the tokens of a forward pass; whoever called `forward` calls this, no layer does."""
        self.length += num_tokens

    def mark(self) -> None:
        """Remember this point, so that `rewind` can come back to it; what this costs is no part of `state_bytes`.

        A cache can go back anywhere and does nothing. What cannot (a recurrent state) keeps a copy of itself, until it
        goes back beyond this point. Mark where a measured loop begins, not inside of it.
        """

    def rewind(self, length: int) -> None:
        """Forget all tokens from `length` on: 0, a marked length, or, in a cache, any up to the present one.

        Tensors are written in place.
        """
        assert 0 <= length <= self.length, f"cannot rewind from {self.length} tokens to {length}"
        self.length = length

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors that a step reads or writes; each keeps its address as long as the state lives."""
        return ()

    def bytes_per_token(self) -> float:
        """Return how much the state grows for a token and a sequence, in bytes."""
        return 0

    def state_bytes(self) -> int:
        """Return the constant part for a sequence, in bytes."""
        return 0


class Mixer(Part):
    """A token mixer.

    Attributes:
        shape: the decoder's shape, with what the mixer changes in it.
        rotary_dim: width of what it hands to `positions.rotate`; 0 if it never does.
        room_step: tokens by which its state grows at once, where it keeps something for several tokens together.
        uncoded: why its state cannot be held in a number format of the cache; one that can has `allocate_coded`.
    """

    shape: Shape
    rotary_dim: int = 0
    room_step: int = 1
    uncoded: str = "it does not say how its state could be held in another number format"

    def forward(
        self, x_BTD: Tensor, positions: Positions, state: State | None = None, sequence_ids_BT: Tensor | None = None
    ) -> Tensor:
        """Return the mixed tokens, BTD.

        Args:
            x_BTD: normalised residual stream of the new tokens.
            positions: where they stand, with `rotate` and `score_bias`.
            state: what was remembered; the new tokens are added to it. Without one the call is a sequence of its own.
            sequence_ids_BT: tokens with different ids never see each other (packed rows); not together with a state.
        """
        raise NotImplementedError

    def reference(self, x_BTD: Tensor, positions: Positions, sequence_ids_BT: Tensor | None = None) -> Tensor:
        """Return the same as `forward` without a state, in the plainest form: every score written out."""
        raise NotImplementedError

    def allocate(self, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device) -> State:
        """Return an empty state with room for `max_tokens` tokens in each of `batch` sequences."""
        raise NotImplementedError

    def allocate_coded(
        self, coder: CacheCoder, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> State:
        """Return the same, where what is remembered of each token lies coded in memory; `dtype` is that of the numbers.

        Such a state has no constant part.

        Raises:
            Unsupported: the mixer remembers nothing that can be held so.
            UserError: the coder's options do not fit the widths.
        """
        raise Unsupported(f"no number format of the cache serves {type(self).__name__}: {self.uncoded}")

    def model_flops(self, new_tokens: int, context: int = 0) -> float:
        """Return the floating-point operations of one sequence that adds `new_tokens` after `context` tokens.

        What the model needs: a token attends to itself and those before it only; nothing is computed twice.
        """
        raise NotImplementedError

    def reference_flops(self, num_tokens: int) -> float:
        """Return the operations that `reference` executes on one sequence, as torch's counter counts them."""
        raise NotImplementedError

    def cache_bytes_per_token(self, dtype_bytes: int) -> float:
        """Return how much the state grows for a token and a sequence, in bytes."""
        return 0.0

    def state_bytes(self, dtype_bytes: int) -> int:
        """Return the constant part of the state for a sequence, in bytes."""
        return 0

    def read_bytes(self, context: int, dtype_bytes: int) -> float:
        """Return the fewest bytes of state that one further token of a sequence reads after `context` tokens."""
        return context * self.cache_bytes_per_token(dtype_bytes) + self.state_bytes(dtype_bytes)

    def num_parameters(self) -> int:
        """Return how many parameters it stores; a token uses all of them."""
        return num_parameters(self)

    def checkpoint_names(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Return own parameter -> (name in a Llama-family layer, rows) of its parts; empty if it has no such form."""
        return {}


def _anything_goes(shape: Shape, position: Position) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class MixerEntry:
    """A mixer's entry.

    Attributes:
        card: the technique's claim.
        build: `build(shape, **options)` returns the mixer; its keyword parameters are the options a recipe can set.
        supports: raises `Unsupported`, with the reason, for a shape or a position encoding that it cannot serve.
        cache_knob: the option of `build`, or else the field of `Shape`, that the cache's bytes grow with in proportion
            or with a constant beside it; `match: cache` sets it. Empty: no cache that could be fitted.
    """

    card: Card
    build: Callable[..., Mixer]
    supports: Callable[[Shape, Position], None] = _anything_goes
    cache_knob: str = ""


def causal_pairs(new_tokens: int, context: int = 0, window: int = 0) -> int:
    """Return how many (query, key) pairs causal attention needs: itself and all before, at most `window` of them.

    >>> causal_pairs(4), causal_pairs(1, context=9), causal_pairs(4, window=2), causal_pairs(2, context=9, window=5)
    (10, 10, 7, 10)
    """
    if not window:
        return new_tokens * context + new_tokens * (new_tokens + 1) // 2
    growing = min(new_tokens, max(0, window - context))  # tokens whose whole past still fits into the window
    return causal_pairs(growing, context) + (new_tokens - growing) * window
