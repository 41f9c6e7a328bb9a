"""What the checks are made of: a small mixer, small inputs, and ways of running one on the other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from efficientllm import registry
from efficientllm.errors import Unsupported
from efficientllm.models.initial import initialise
from efficientllm.models.mixers._contract import Mixer, MixerEntry, State
from efficientllm.models.position._contract import Position, positions_of
from efficientllm.models.position.rope import RotaryPosition
from efficientllm.models.shape import Shape

#: Small, with a bias, groups of two, and lengths that no block size divides.
SHAPE = Shape(
    num_layers=2,
    width=48,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=64,
    vocab_tokens=64,
    head_dim=12,
    qkv_bias=True,
)
LENGTHS = (1, 2, 13, 67)
BATCH = 3
CPU = torch.device("cpu")

#: Largest difference in float32 that counts as the same, relative to the largest value.
TOLERANCE = 2e-5


class Slope(Position):
    """A position encoding that lets scores fall with the distance, in each head at its own rate."""

    biases_scores = True

    def score_bias(self, index_BT: Tensor, key_index_BS: Tensor) -> Tensor:
        """Return what is added to the scores, BNTS."""
        rates_N11 = torch.linspace(0.1, 0.4, SHAPE.num_heads)[:, None, None]
        return -rates_N11 * (index_BT[:, None, :, None] - key_index_BS[:, None, None, :]).abs()


def make_mixer(entry: MixerEntry, **changes: int) -> Mixer:
    """Return the entry's mixer of the small shape, with weights rough enough for faults to show."""
    shape = replace(SHAPE, **changes)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixer = entry.build(shape)
    entry.supports(shape, position_for(mixer))
    initialise(mixer, 0, num_layers=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return mixer


def position_for(mixer: Mixer) -> Position:
    """Return rotary positions of the width that the mixer turns, or none."""
    return RotaryPosition(SHAPE, mixer.rotary_dim) if mixer.rotary_dim else Position()


def goes_with(mixer: str, position: str) -> bool:
    """Whether the mixer of this name can serve the position encoding of this name."""
    entry: MixerEntry = registry.load("mixer", mixer)
    try:
        entry.supports(SHAPE, registry.load("position", position).build(SHAPE, SHAPE.head_dim))
    except Unsupported:
        return False
    return True


def position_with(mixer: str) -> str:
    """Return the position encoding that a mixer is tried with where any will do: rope, or none if it cannot turn."""
    return "rope" if goes_with(mixer, "rope") else "none"


def tokens(length: int) -> Tensor:
    """Return the same random input BTD for the same length."""
    return torch.randn(BATCH, length, SHAPE.width, generator=torch.Generator().manual_seed(length))


def apply(mixer: Mixer, x_BTD: Tensor) -> Tensor:
    """Run the fast path over all tokens at once, with gradients."""
    out_BTD: Tensor = mixer(x_BTD, positions_of(position_for(mixer), x_BTD.shape[1]))
    return out_BTD


def apply_still(mixer: Mixer, x_BTD: Tensor) -> Tensor:
    """Run the fast path over all tokens at once, without gradients."""
    with torch.no_grad():
        return apply(mixer, x_BTD)


def reference(mixer: Mixer, x_BTD: Tensor) -> Tensor:
    """Run the plain reference over all tokens, with gradients."""
    return mixer.reference(x_BTD, positions_of(position_for(mixer), x_BTD.shape[1]))


def empty_state(mixer: Mixer, max_tokens: int, *, fixed: bool) -> State:
    """Return an empty state with or without fixed shapes."""
    state = mixer.allocate(BATCH, max_tokens, torch.float32, CPU)
    state.fixed_shapes = fixed
    return state


def in_chunks(
    mixer: Mixer, x_BTD: Tensor, lengths: list[int], state: State, start: int = 0, encoding: Position | None = None
) -> Tensor:
    """Run the tokens through the state in pieces of these lengths, the first at position `start`."""
    encoding, results = encoding or position_for(mixer), []
    for part_BTD in x_BTD.split(lengths, 1):
        index_BT = torch.arange(start, start + part_BTD.shape[1])[None]
        with torch.no_grad():
            results.append(mixer(part_BTD, encoding.at(index_BT, torch.float32), state))
        state.advance(part_BTD.shape[1])
        start += part_BTD.shape[1]
    return torch.cat(results, 1)


def held_bytes(state: State) -> int:
    """Return the bytes of all float tensors that a state refers to, each storage once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in float_tensors(state)}
    return sum(storage.nbytes() for storage in storages.values())


def float_tensors(state: State) -> list[Tensor]:
    """Return all float tensors that a state refers to."""
    found: list[Tensor] = []
    waiting: list[object] = [vars(state)]
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor) and item.is_floating_point():
            found.append(item)
        elif id(item) not in seen:
            seen.add(id(item))
            waiting += _inside(item)
    return found


def same(got: Tensor, expected: Tensor, otherwise: str) -> None:
    """Hold two tensors to be the same but for rounding; `otherwise` says what it means if they are not.

    Raises:
        AssertionError: they differ, in shape or value (NaN differs from everything).
    """
    assert got.shape == expected.shape, f"{otherwise}: shape {tuple(got.shape)}, not {tuple(expected.shape)}"
    gap = (got - expected).abs().max().item()
    limit = TOLERANCE * max(1.0, expected.abs().max().item())
    assert gap <= limit, f"{otherwise}: by up to {gap:.2g} (limit {limit:.2g})"


def _inside(item: object) -> list[object]:
    if isinstance(item, dict):
        return list(item.values())
    if isinstance(item, list | tuple):
        return list(item)
    return list(vars(item).values()) if hasattr(item, "__dict__") and not isinstance(item, type) else []
