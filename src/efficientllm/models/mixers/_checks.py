"""What every token mixer is held to: each check takes an entry and raises AssertionError with one readable sentence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientllm.checking import run_checks
from efficientllm.errors import Unsupported
from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.mixers._probe import (
    BATCH,
    CPU,
    LENGTHS,
    SHAPE,
    Slope,
    apply,
    apply_still,
    empty_state,
    held_bytes,
    in_chunks,
    make_mixer,
    position_for,
    reference,
    same,
    tokens,
)
from efficientllm.models.mixers._rewind_checks import fixed_addresses, rewind
from efficientllm.models.position._contract import Position, positions_of

Check = Callable[[MixerEntry], None]


def check(entry: MixerEntry) -> list[tuple[str, str | None]]:
    """Run all checks and return (what was checked, None or how it failed)."""
    return run_checks(CHECKS, entry)


def causal(entry: MixerEntry) -> None:
    """A token's result does not change with what comes after it."""
    mixer = make_mixer(entry)
    x, changed = tokens(67), tokens(67)
    changed[:, 40:] += 1.0
    before, after = apply_still(mixer, x), apply_still(mixer, changed)
    same(after[:, :40], before[:, :40], "a token's result changes when a later token does")
    assert not torch.equal(after[:, 40:], before[:, 40:]), "a token's result does not depend on the token itself"


def depends_on_the_past(entry: MixerEntry) -> None:
    """A token's result changes with a token before it; else nothing is mixed."""
    mixer = make_mixer(entry)
    x, changed = tokens(13), tokens(13)
    changed[:, 3] += 1.0
    assert not torch.equal(apply_still(mixer, x)[:, -1], apply_still(mixer, changed)[:, -1]), (
        "the past has no influence"
    )


def decode(entry: MixerEntry) -> None:
    """Token by token gives the same as all at once, with and without fixed shapes, at odd lengths."""
    mixer = make_mixer(entry)
    for length in LENGTHS:
        x = tokens(length)
        expected = apply_still(mixer, x)
        for fixed in (False, True):
            state = empty_state(mixer, length + 5, fixed=fixed)
            got = in_chunks(mixer, x, [1] * length, state)
            same(got, expected, f"{length} tokens one by one (fixed_shapes={fixed}) differ from all at once")


def chunked(entry: MixerEntry) -> None:
    """A prompt in chunks, then single tokens, gives the same as all at once."""
    mixer = make_mixer(entry)
    x = tokens(67)
    expected = apply_still(mixer, x)
    for chunks in ([67], [33, 34], [1, 30, 35, 1], [7, 1, 1, 58]):
        got = in_chunks(mixer, x, chunks, empty_state(mixer, 70, fixed=False))
        same(got, expected, f"chunks of {chunks} tokens differ from all at once")


def long_cache(entry: MixerEntry) -> None:
    """One token after a long context, with fixed shapes, sees all of it and nothing beyond."""
    mixer = make_mixer(entry)
    x = tokens(600)
    expected = apply_still(mixer, x)
    state = empty_state(mixer, 1024, fixed=True)
    got = in_chunks(mixer, x, [598, 1, 1], state)
    same(got, expected, "single tokens after 598 others differ from all at once")


def cache_size(entry: MixerEntry) -> None:
    """The state holds exactly the bytes that the mixer says, for each number format."""
    mixer = make_mixer(entry)
    rooms = (10 * mixer.room_step, 30 * mixer.room_step)
    for dtype in (torch.float32, torch.bfloat16):
        small, large = (mixer.allocate(BATCH, room, dtype, CPU) for room in rooms)
        growth = (held_bytes(large) - held_bytes(small)) / ((rooms[1] - rooms[0]) * BATCH)
        said = mixer.cache_bytes_per_token(dtype.itemsize)
        assert growth == said, f"the state grows by {growth:g} bytes a token in {dtype}, the mixer says {said:g}"
        assert large.bytes_per_token() == said, f"the state says {large.bytes_per_token()} bytes a token, not {said:g}"
        constant = held_bytes(large) / BATCH - rooms[1] * growth
        said = mixer.state_bytes(dtype.itemsize)
        assert constant == said, f"the state holds {constant:g} constant bytes in {dtype}, the mixer says {said}"
        assert large.state_bytes() == said, f"the state says {large.state_bytes()} constant bytes, not {said}"


def flops(entry: MixerEntry) -> None:
    """`reference_flops` is what torch counts on the reference, and `model_flops` is not above it."""
    mixer = make_mixer(entry)
    for length in (13, 67):
        with FlopCounterMode(display=False) as counter:
            mixer.reference(tokens(length)[:1], positions_of(position_for(mixer), length))
        counted, said = counter.get_total_flops(), mixer.reference_flops(length)
        assert abs(said - counted) <= 0.01 * counted, f"reference_flops says {said:g}, torch counts {counted}"
        needed = mixer.model_flops(length)
        assert 0 < needed <= said * 1.0001, f"model_flops {needed:g} is not between 0 and reference_flops {said:g}"
    assert mixer.model_flops(1, 100) >= mixer.model_flops(1, 10), "model_flops of a token falls as the context grows"


def parameters(entry: MixerEntry) -> None:
    """The mixer states the number of its parameters."""
    mixer = make_mixer(entry)
    held = sum(p.numel() for p in mixer.parameters())
    assert mixer.num_parameters() == held, f"num_parameters says {mixer.num_parameters()}, the mixer holds {held}"


def trains(entry: MixerEntry) -> None:
    """A few steps lower the loss of a task that needs the past, and every parameter gets a gradient."""
    mixer = make_mixer(entry)
    x = tokens(67)  # enough for parts that only a longer past puts to use
    target = x.roll(1, 1)  # the token before
    target[:, 0] = 0.0
    optimizer = torch.optim.Adam(mixer.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = (apply(mixer, x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in mixer.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"{name} gets no gradient"
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], f"30 steps bring the loss only from {losses[0]:.3f} to {losses[-1]:.3f}"


def odd_lengths(entry: MixerEntry) -> None:
    """Every length gives a result of the input's shape, without NaN, equal to the reference."""
    mixer = make_mixer(entry)
    for length in (*LENGTHS, 129):
        x = tokens(length)
        got = apply_still(mixer, x)
        assert got.shape == x.shape, f"{length} tokens give {tuple(got.shape)}, not {tuple(x.shape)}"
        same(got, reference(mixer, x), f"{length} tokens differ from the reference")


def fast_is_reference(entry: MixerEntry) -> None:
    """The fast path equals the plain reference in its result and in all gradients."""
    mixer = make_mixer(entry)
    pull = torch.randn(BATCH, 67, SHAPE.width, generator=torch.Generator().manual_seed(5))
    gradients = []
    for path in (apply, reference):
        x = tokens(67).requires_grad_()
        mixer.zero_grad()
        path(mixer, x).backward(pull)
        named = {name: p.grad for name, p in mixer.named_parameters()}
        gradients.append({"the input": x.grad} | named)
    for name, expected in gradients[1].items():
        got = gradients[0][name]
        assert got is not None and expected is not None, f"{name} gets no gradient"
        same(got, expected, f"the gradient of {name} differs from the reference's")


def packing(entry: MixerEntry) -> None:
    """Sequences packed into one row do not see each other."""
    mixer = make_mixer(entry)
    x = tokens(67)
    lengths = (1, 30, 36)
    ids = torch.repeat_interleave(torch.tensor([4, 9, 2]), torch.tensor(lengths))[None].expand(BATCH, -1)
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    positions = position_for(mixer).at(places, torch.float32)
    alone = torch.cat([apply_still(mixer, part) for part in x.split(lengths, 1)], 1)
    with torch.no_grad():
        same(mixer(x, positions, None, ids), alone, "packed sequences differ from the same ones alone")
        same(mixer.reference(x, positions, ids), alone, "packed sequences differ in the reference")


def sliding_window(entry: MixerEntry) -> None:
    """With `shape.sliding_window` a token sees that many tokens and no more, or the mixer refuses the shape."""
    try:
        mixer = make_mixer(entry, sliding_window=16)
    except Unsupported:
        return
    x, changed = tokens(67), tokens(67)
    changed[:, 20] += 1.0
    expected = apply_still(mixer, x)
    moved = (apply_still(mixer, changed) - expected).abs().amax((0, 2)) > 0
    assert moved[20:36].all() and not moved[36:].any(), "a token 20 is not seen by exactly the tokens 20 to 35"
    for fixed in (False, True):
        got = in_chunks(mixer, x, [30, 20, 1, 1, 15], empty_state(mixer, 80, fixed=fixed))
        same(got, expected, f"chunks within a window (fixed_shapes={fixed}) differ from all at once")
    same(expected, reference(mixer, x), "the window differs from the reference's")


def score_bias(entry: MixerEntry) -> None:
    """A position encoding that biases scores is added in every path, or the mixer refuses it."""
    mixer, encoding = make_mixer(entry), Slope()
    try:
        entry.supports(SHAPE, encoding)
    except Unsupported:
        return
    x = tokens(67)
    with torch.no_grad():
        expected = mixer.reference(x, positions_of(encoding, 67))
        same(mixer(x, positions_of(encoding, 67)), expected, "the biased result differs from the reference")
    plain = mixer.reference(x, positions_of(Position(), 67))
    assert (plain - expected).abs().max() > 1e-3, "the bias of the scores has no influence"
    for fixed in (False, True):
        got = in_chunks(mixer, x, [30, 20, 1, 1, 15], empty_state(mixer, 80, fixed=fixed), encoding=encoding)
        same(got, expected, f"biased chunks (fixed_shapes={fixed}) differ from all at once")


#: What is checked -> the check.
CHECKS: dict[str, Check] = {
    "causal": causal,
    "depends on the past": depends_on_the_past,
    "token by token equals all at once": decode,
    "chunked prefill equals all at once": chunked,
    "long cache with fixed shapes": long_cache,
    "rewind": rewind,
    "state at fixed addresses": fixed_addresses,
    "cache as large as it says": cache_size,
    "FLOPs as it says": flops,
    "parameters as it says": parameters,
    "trains": trains,
    "odd lengths": odd_lengths,
    "fast path equals the reference": fast_is_reference,
    "packing isolates sequences": packing,
    "sliding window": sliding_window,
    "score bias": score_bias,
}
