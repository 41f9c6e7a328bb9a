"""What every position encoding is held to, with every mixer that takes it: each check raises a readable sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from efficientllm import catalog, registry
from efficientllm.checking import run_checks
from efficientllm.errors import Unsupported
from efficientllm.models.decoder import Decoder
from efficientllm.models.initial import initialise
from efficientllm.models.mixers._contract import Mixer, MixerEntry, State
from efficientllm.models.mixers._probe import SHAPE, same
from efficientllm.models.mlp.dense import GatedMlp
from efficientllm.models.position._contract import PositionEntry, Positions, positions_of

Check = Callable[[PositionEntry], None]

#: Beyond what any buffer in bfloat16 could tell apart.
_FAR = 20_000


def check(entry: PositionEntry) -> list[tuple[str, str | None]]:
    """Run all checks and return (what was checked, None or how it failed)."""
    return run_checks(CHECKS, entry)


def make_decoder(entry: PositionEntry, mixer: MixerEntry, seed: int = 0, rough: float = 0.15) -> Decoder:
    """Return a small decoder with this encoding and mixer, with weights rough enough for faults to show."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = _bare(entry, mixer)
    mixer.supports(SHAPE, decoder.position)
    initialise(decoder, seed, SHAPE.num_layers)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            # token vectors stay near the size of those of positions, or neither would matter beside the other
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.02 if "embed" in name else rough))
    return decoder


def decoders(entry: PositionEntry) -> Iterator[tuple[str, Decoder]]:
    """Yield the small decoder for every mixer of the package that takes this encoding, with the mixer's name."""
    for name in catalog.names("mixer"):
        try:
            yield name, make_decoder(entry, registry.load("mixer", name))
        except Unsupported:
            continue


def tokens(length: int, rows: int = 2) -> Tensor:
    """Return the same random tokens BT for the same length."""
    return torch.randint(SHAPE.vocab_tokens, (rows, length), generator=torch.Generator().manual_seed(length))


def hooks(entry: PositionEntry) -> None:
    """The hooks keep shapes, and the encoding says whether it biases scores."""
    encoding = entry.build(SHAPE, 8)
    places = positions_of(encoding, 7)
    q, k = places.rotate(torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8))
    assert q.shape == (2, 4, 7, 8) and k.shape == (2, 2, 7, 8), f"rotate gives {tuple(q.shape)} and {tuple(k.shape)}"
    x = encoding.embed(torch.randn(2, 7, SHAPE.width), places.index_BT)
    assert x.shape == (2, 7, SHAPE.width), f"embed gives {tuple(x.shape)}"
    bias = places.score_bias(places.index_BT)
    assert (bias is not None) == encoding.biases_scores, f"biases_scores says {encoding.biases_scores}"
    if bias is not None:
        fits = torch.broadcast_shapes(bias.shape, (2, SHAPE.num_heads, 7, 7)) == (2, SHAPE.num_heads, 7, 7)
        assert fits, f"score_bias gives {tuple(bias.shape)}, which is no BNTS"


@torch.no_grad()
def decode(entry: PositionEntry) -> None:
    """Token by token, with and without fixed shapes, gives the same as all at once."""
    x = tokens(23)
    for name, decoder in decoders(entry):
        expected = decoder(x)
        for fixed in (False, True):
            state = decoder.allocate(2, 32)
            if fixed:
                state.use_fixed_shapes()
            pieces = [decoder(x[:, :9], state=state), decoder(x[:, 9:14], state=state)]
            pieces += [decoder.step(x[:, i], state)[:, None] for i in range(14, 23)]
            got = torch.cat(pieces, 1)
            same(got, expected, f"with {name} single tokens (fixed_shapes={fixed}) differ from all at once")


@torch.no_grad()
def capture(entry: PositionEntry) -> None:
    """A one-token step of fixed shapes asks the device for no number, so that it can be captured in a graph."""
    for name, _ in decoders(entry):
        with FakeTensorMode():
            decoder = _bare(entry, registry.load("mixer", name))
            state = decoder.allocate(2, 32)
            state.use_fixed_shapes()
            try:
                decoder.run(torch.zeros(2, 1, dtype=torch.int64), state=state)
            except DataDependentOutputException as error:
                raise AssertionError(f"with {name} a step needs a number from the device: {error}") from error


@torch.no_grad()
def causal(entry: PositionEntry) -> None:
    """A token's result does not change with what comes after it."""
    x, changed = tokens(23), tokens(23)
    changed[:, 15:] = (changed[:, 15:] + 1) % SHAPE.vocab_tokens
    for name, decoder in decoders(entry):
        same(decoder(changed)[:, :15], decoder(x)[:, :15], f"with {name} a later token changes an earlier result")


@torch.no_grad()
def packing(entry: PositionEntry) -> None:
    """Packed sequences have the results of the same ones alone: positions count from the start of each."""
    x, ids = tokens(23), torch.repeat_interleave(torch.tensor([4, 9]), torch.tensor([8, 15]))[None].expand(2, -1)
    for name, decoder in decoders(entry):
        alone = torch.cat([decoder(x[:, :8]), decoder(x[:, 8:])], 1)
        same(decoder(x, sequence_ids_BT=ids), alone, f"with {name} packed sequences differ from the same ones alone")


@torch.no_grad()
def distance(entry: PositionEntry) -> None:
    """Moving all positions on by the same number changes a text if the encoding says `absolute`, and only then."""
    x = tokens(23)
    places = torch.arange(23)[None]
    for name, decoder in decoders(entry):
        expected, moved = decoder(x), decoder(x, positions_BT=places + 30)
        if decoder.position.absolute:
            gap = (moved - expected).abs().max().item()
            assert gap > 1e-3, f"with {name} moved positions change nothing, yet the encoding says absolute"
        else:
            same(moved, expected, f"with {name} scores do not depend on distances alone, nor does it say absolute")


@torch.no_grad()
def formats(entry: PositionEntry) -> None:
    """Weights in bfloat16 and float16 give nearly the same, at far positions too."""
    mixer: MixerEntry = registry.load("mixer", "gqa")  # how well a mixer keeps its own numbers is not the question here
    start = 0 if entry.build(SHAPE, 8).max_positions else _FAR
    x, places = tokens(23), torch.arange(start, start + 23)[None]
    expected = make_decoder(entry, mixer)(x, positions_BT=places)
    for dtype in (torch.bfloat16, torch.float16):
        low = make_decoder(entry, mixer).to(dtype)
        gap = (low(x, positions_BT=places).float() - expected).abs().max() / expected.abs().max()
        assert gap < 0.08, f"{dtype} is {gap:.0%} off float32: a table was cast that must not be"


def gradients(entry: PositionEntry) -> None:
    """Parameters get the gradients that the plain reference gives them, from all layers together."""
    x = tokens(23)
    for name, decoder in decoders(entry):
        found: list[dict[str, Tensor | None]] = []
        for reference in (False, True):
            if reference:
                for number in range(SHAPE.num_layers):
                    _use_reference(decoder.block(number).mixer)
            decoder.zero_grad()
            decoder.loss(x[:, :-1], x[:, 1:]).backward()
            found.append({key: p.grad for key, p in decoder.position.named_parameters()})
        for key, expected in found[1].items():
            got = found[0][key]
            assert got is not None and expected is not None and expected.any(), f"with {name} {key} gets no gradient"
            same(1e3 * got, 1e3 * expected, f"with {name} the gradient of {key} differs from the reference's")


def drawn(entry: PositionEntry) -> None:
    """Every parameter is drawn from the seed, whatever the memory held before."""
    mixer: MixerEntry = registry.load("mixer", "gqa")
    made = [make_decoder(entry, mixer, seed, rough=0.0) for seed in (1, 1, 2)]
    with torch.no_grad():
        for parameter in made[0].position.parameters():
            parameter.fill_(torch.nan)
    initialise(made[0], 1, SHAPE.num_layers)
    for (key, one), two, other in zip(
        made[0].position.named_parameters(), made[1].position.parameters(), made[2].position.parameters(), strict=True
    ):
        assert torch.equal(one, two), f"{key} is not drawn from the seed alone: use an Embedding of models.linear"
        assert not torch.equal(one, other), f"{key} is the same for every seed"


@torch.no_grad()
def moved(entry: PositionEntry) -> None:
    """Parameters alone say what it is: after a move through the meta device with them it gives the same."""
    mixer: MixerEntry = registry.load("mixer", "gqa")
    decoder, x = make_decoder(entry, mixer), tokens(23)
    expected, held = decoder(x), {name: p.clone() for name, p in decoder.named_parameters()}
    decoder.to("meta").to_empty(device="cpu")
    decoder.load_state_dict(held, strict=False)
    same(decoder(x), expected, "after a move the encoding gives something else: a table needs `restore`")


def costs(entry: PositionEntry) -> None:
    """It states its parameters, and never more of them as read than it holds."""
    encoding = entry.build(SHAPE, 8)
    held = sum(p.numel() for p in encoding.parameters())
    assert encoding.num_parameters() == held, f"num_parameters says {encoding.num_parameters()}, it holds {held}"
    few, all_of_them = encoding.read_parameters(1), encoding.read_parameters(10**9)
    assert 0 <= few <= all_of_them == held, f"read_parameters says {few} for one position, {all_of_them} for all"


@torch.no_grad()
def length(entry: PositionEntry) -> None:
    """Beyond its positions it refuses, or gives NaN where only the device knows; without an end it goes on."""
    encoding = entry.build(SHAPE, 8)
    end = encoding.max_positions
    if not end:
        encoding.check_length(10**9)
        return
    encoding.check_length(end)
    try:
        encoding.check_length(end + 1)
    except Unsupported:
        out_BTD = encoding.embed(torch.zeros(1, 2, SHAPE.width), torch.tensor([[end - 1, end]]))
        assert out_BTD[0, 1].isnan().all(), f"position {end} gives numbers, though there are only {end}"
        assert not out_BTD[0, 0].isnan().any(), f"position {end - 1} gives NaN, though there are {end}"
    else:
        raise AssertionError(f"{end + 1} tokens are not refused, though there are only {end} positions")


def _bare(entry: PositionEntry, mixer: MixerEntry) -> Decoder:
    return Decoder(SHAPE, lambda: mixer.build(SHAPE), lambda width: entry.build(SHAPE, width), lambda: GatedMlp(SHAPE))


def _use_reference(mixer: Mixer) -> None:
    plain = mixer.reference

    def forward(x_BTD: Tensor, positions: Positions, state: State | None, ids_BT: Tensor | None) -> Tensor:
        return plain(x_BTD, positions, ids_BT)

    mixer.forward = forward  # type: ignore[method-assign, assignment]


#: What is checked -> the check.
CHECKS: dict[str, Check] = {
    "hooks keep shapes": hooks,
    "token by token equals all at once": decode,
    "a step can be captured": capture,
    "causal": causal,
    "packing isolates sequences": packing,
    "distance or place as it says": distance,
    "number formats": formats,
    "gradients are the reference's": gradients,
    "drawn from the seed": drawn,
    "survives a move": moved,
    "costs as it says": costs,
    "length as it says": length,
}
