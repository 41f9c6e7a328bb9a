"""Native sparse attention: what it sees, what it chooses, what it costs. The contract's checks run elsewhere, too."""

from dataclasses import replace

import pytest
import torch

from efficientllm import registry
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import costs
from efficientllm.models.build import build_decoder
from efficientllm.models.mixers import _nsa_branches
from efficientllm.models.mixers._checks import CHECKS, check
from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.mixers._nsa_blocks import Blocks
from efficientllm.models.mixers._nsa_branches import selected_branch, sliding_branch
from efficientllm.models.mixers._nsa_select import choose_blocks, entry_probabilities, layout_of, packed_layout
from efficientllm.models.mixers._probe import (
    SHAPE,
    Slope,
    apply_still,
    empty_state,
    in_chunks,
    make_mixer,
    position_for,
    same,
    tokens,
)
from efficientllm.models.position._contract import Position, positions_of
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

ENTRY = registry.load("mixer", "nsa")
SMALL = {"window": 16, "select_block": 8, "compress_block": 4, "compress_stride": 2}
ODD = {"window": 5, "select_block": 6, "num_selected": 3, "compress_block": 9, "compress_stride": 3}
MANY = {"window": 1, "select_block": 4, "num_selected": 6, "compress_block": 4, "compress_stride": 4}


def entry(options, **shape):
    def build(base):
        return ENTRY.build(replace(base, **shape), **options)

    return MixerEntry(card=ENTRY.card, build=build, supports=ENTRY.supports)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("options", [SMALL, ODD, MANY])
def test_with_small_blocks_it_passes_all_checks(options):
    assert check(entry(options)) == [(what, None) for what in CHECKS]


def test_with_normed_queries_and_keys_it_passes_all_checks():
    assert check(entry(SMALL, qk_norm=True, qkv_bias=False)) == [(what, None) for what in CHECKS]


@pytest.mark.parametrize("what", ["fast path equals the reference", "packing isolates sequences", "odd lengths"])
def test_in_many_pieces_the_branches_are_the_same(what, monkeypatch):
    monkeypatch.setattr(_nsa_branches, "WRITTEN_SCORES", 64)
    monkeypatch.setattr(_nsa_branches, "PIECE_TOKENS", 13)
    CHECKS[what](entry(SMALL))


def choose_plainly(weights_KE, place, blocks):
    """Return the set of blocks of one token of one sequence, worked out token by token."""
    own = place // blocks.select_block
    chosen = {0, own} | ({own - 1} if own else set())
    scores = []
    for block in range(1, own - 1):
        first = block * blocks.select_block
        score = 0.0
        for number, weight in enumerate(weights_KE):
            start = number * blocks.compress_stride
            shared = range(max(first, start), min(first + blocks.select_block, start + blocks.compress_block))
            score += weight * len(shared) / blocks.compress_stride
        scores.append((-score, block))
    return chosen | {block for _, block in sorted(scores)[: blocks.num_selected - 3]}


@pytest.mark.parametrize("options", [SMALL, ODD, MANY])
def test_the_blocks_chosen_are_those_with_the_largest_probability_mass(options):
    blocks = Blocks(**{"num_selected": 4} | options)
    layout = layout_of(blocks, torch.arange(83)[None], blocks.num_entries(83), 83)
    q, k = draw(2, 4, 83, 12).double(), draw(2, 2, layout.ends_BE.shape[1], 12).double()
    weights_BKGTE = entry_probabilities(q, k, layout.visible(), 0.5)
    picks = choose_blocks(weights_BKGTE, layout, blocks)
    for row, head, place in ((r, h, p) for r in range(2) for h in range(2) for p in range(83)):
        expected = choose_plainly(weights_BKGTE[row, head, :, place].sum(0).tolist(), place, blocks)
        got = [pick for pick in picks[row, head, place].tolist() if pick >= 0]
        assert sorted(got) == sorted(expected), f"token {place} of head {head}"


def test_packed_rows_choose_as_each_sequence_alone():
    blocks, lengths = Blocks(16, 8, 4, 4, 2), (1, 3, 45, 34)
    q, k = draw(1, 4, 83, 12).double(), draw(1, 2, 83, 12).double()
    ids = torch.repeat_interleave(torch.tensor([5, 1, 7, 2]), torch.tensor(lengths))[None]
    packed = packed_layout(blocks, ids, positions_of(Position(), 83))
    ends = packed.ends_BE.clamp(max=82)[0]
    together = choose_blocks(entry_probabilities(q, k[:, :, ends], packed.visible(), 0.5), packed, blocks)
    first = 0
    for length in lengths:
        layout = layout_of(blocks, torch.arange(length)[None], blocks.num_entries(length), length)
        own_k = k[:, :, first : first + length][:, :, layout.ends_BE[0]]
        weights = entry_probabilities(q[:, :, first : first + length], own_k, layout.visible(), 0.5)
        assert torch.equal(together[:, :, first : first + length], choose_blocks(weights, layout, blocks))
        first += length


def test_of_blocks_that_score_alike_the_first_is_chosen():
    blocks = Blocks(16, 8, 4, 4, 2)
    layout = layout_of(blocks, torch.arange(80)[None], blocks.num_entries(80), 80)
    picks = choose_blocks(torch.zeros(1, 1, 1, 80, layout.ends_BE.shape[1]), layout, blocks)
    assert picks[0, 0, 79].tolist() == [0, 8, 9, 1]
    assert picks[0, 0, 17].tolist() == [0, 1, 2, -1]
    assert picks[0, 0, 7].tolist() == [0, -1, -1, -1]


def test_a_token_sees_its_selected_blocks_up_to_itself_and_nothing_else():
    blocks = Blocks(16, 8, 4, 4, 2)
    layout = layout_of(blocks, torch.arange(80)[None], 0, 80)
    picks = torch.tensor([0, 8, 9, 3]).expand(1, 1, 80, 4)
    q, k, v = draw(1, 2, 80, 12), draw(1, 1, 80, 12), draw(1, 1, 80, 12).requires_grad_()
    selected_branch(q, k, v, picks, layout, blocks, 0.3)[:, :, 77].sum().backward()
    seen = v.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert seen == [*range(8), *range(24, 32), *range(64, 78)]


@pytest.mark.parametrize(("new", "past"), [(1, 0), (16, 0), (50, 0), (7, 15), (33, 3)])
def test_the_sliding_branch_sees_the_window_and_no_more(new, past):
    q, k, v = draw(2, 4, new, 12), draw(2, 2, past + new, 12), draw(2, 2, past + new, 12)
    query, key = torch.arange(past, past + new)[:, None], torch.arange(past + new)[None]
    hidden = (key > query) | (key <= query - 16)
    scores = (q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.3).masked_fill(hidden, -torch.inf)
    same(sliding_branch(q, k, v, 16, 0.3, None), scores.softmax(-1) @ v.repeat_interleave(2, 1), "the window differs")


@pytest.mark.parametrize("options", [{}, SMALL, ODD, MANY])
def test_the_pairs_of_each_branch_are_those_of_its_mask(options):
    blocks = make_mixer(entry(options)).blocks
    for new, context in ((1, 0), (1, 40), (70, 0), (29, 41), (300, 0), (5, 900)):
        places = range(context, context + new)
        entries = [max(0, (p + 1 - blocks.compress_block) // blocks.compress_stride + 1) for p in places]
        selected = [
            sum(p // blocks.select_block - i // blocks.select_block in _near(p, blocks) for i in range(p + 1))
            for p in places
        ]
        assert blocks.entry_pairs(new, context) == sum(entries)
        assert blocks.selected_pairs(new, context) == sum(selected) == sum(map(blocks.selected_tokens, places))
        assert blocks.window_pairs(new, context) == sum(min(p + 1, blocks.window) for p in places)


def _near(place, blocks):
    """Return distances of as many blocks as the token selects; which they are does not matter to their number."""
    return range(min(blocks.num_selected, place // blocks.select_block + 1))


def test_it_costs_what_is_worked_out_by_hand():
    decoder = build_decoder(ModelSettings(mixer=Choice(name="nsa")), vocab_tokens=64, seed=0, device="cpu")
    mixer, width, heads, kv, head = decoder.block(0).mixer, 256, 4, 2, 64
    projections = width * (heads + 6 * kv) * head + width * 3 * heads + heads * head * width
    compress = 32 * head * head + head * head
    assert mixer.num_parameters() == projections + 2 * (compress + 32 * head)
    # Token 300 of the row: entries end at 31, 47 … 287; blocks 0, 3, 4 and one more, of which its own has 45 tokens.
    pairs = 17 + (3 * 64 + 45) + 128
    assert mixer.model_flops(1, 300) == 2 * projections + pairs * 4 * heads * head
    assert mixer.read_bytes(300, 2) == 2 * kv * head * 2 * (17 + 3 * 64 + 44 + 127)
    # Token 303 completes the entry of tokens 272 to 303, for whose sake 31 raw tokens are read.
    pairs = 18 + (3 * 64 + 48) + 128
    assert mixer.model_flops(1, 303) == 2 * projections + 2 * kv * 2 * compress + pairs * 4 * heads * head
    assert mixer.read_bytes(303, 2) == 2 * kv * head * 2 * (17 + 3 * 64 + 47 + 127 + 31)
    assert costs.cache_bytes_per_token(decoder, 2) == 4 * 2 * kv * head * 2 * (1 + 1 / 16)
    assert mixer.state_bytes(2) == 2 * kv * head * 2 * (128 + 32)


def test_a_far_step_reads_little_of_what_is_cached():
    mixer = make_mixer(ENTRY)
    held = mixer.cache_bytes_per_token(2) * 65536
    assert mixer.read_bytes(65536, 2) < 0.08 * held


def test_a_fixed_step_looks_at_the_device_alone():
    mixer = make_mixer(entry(SMALL))
    x, encoding = tokens(67), position_for(mixer)
    expected = apply_still(mixer, x)
    state = empty_state(mixer, 80, fixed=True)
    in_chunks(mixer, x[:, :41], [41], state)
    with torch.no_grad():
        for place in range(41, 67):  # the host's length stays 41
            got = mixer(x[:, place : place + 1], encoding.at(torch.tensor([[place]]), torch.float32), state)
            same(got, expected[:, place : place + 1], f"the step at {place} differs")


@pytest.mark.parametrize("fixed", [False, True])
def test_a_mark_brings_the_rings_back_after_any_number_of_tokens(fixed):
    mixer = make_mixer(entry(SMALL))
    x = tokens(67)
    expected = apply_still(mixer, x)
    state = empty_state(mixer, 67, fixed=fixed)
    in_chunks(mixer, x[:, :23], [23], state)
    state.mark()
    for chunks in ([1] * 44, [40, 4], [1, 43]):
        got = in_chunks(mixer, x[:, 23:], chunks, state, start=23)
        same(got, expected[:, 23:], f"chunks of {chunks} after a rewind differ")
        state.rewind(23)
    state.rewind(0)
    same(in_chunks(mixer, x, [67], state), expected, "tokens after a rewind to 0 differ")


def test_without_a_mark_a_rewind_over_lost_tokens_is_refused():
    mixer = make_mixer(entry(SMALL))
    state = empty_state(mixer, 67, fixed=False)
    in_chunks(mixer, tokens(40), [40], state)
    with pytest.raises(AssertionError, match=r"mark\(30\) first"):
        state.rewind(30)
    state.rewind(0)
    in_chunks(mixer, tokens(40)[:, :3], [3], state)
    state.rewind(2)  # nothing was overwritten yet
    assert state.length == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_low_precision_it_is_near_float32_and_has_gradients(dtype):
    mixer = make_mixer(entry(SMALL))
    x, encoding = tokens(67)[:, :24], position_for(mixer)  # no more blocks than are selected: no choice can tip over
    expected = apply_still(mixer, x)
    mixer.to(dtype)
    got = mixer(x.to(dtype), encoding.at(torch.arange(24)[None], dtype))
    assert got.dtype == dtype
    assert (got - expected).abs().max() < 0.05 * expected.abs().max()
    got.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


def test_before_a_block_is_complete_the_compressed_branch_gives_nothing():
    mixer = make_mixer(ENTRY)
    layout = layout_of(mixer.blocks, torch.arange(40)[None], 1, 40)
    weights = entry_probabilities(draw(1, 4, 40, 12), draw(1, 2, 1, 12), layout.visible(), 1.0)
    assert (weights[..., :31, :] == 0).all()
    assert (weights[..., 31:, :] == 1).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": 0}, "window"),
        ({"select_block": 2.5}, "select_block"),
        ({"num_selected": 2}, "3 or more"),
        ({"compress_block": 24}, "compress_block 24 .* no multiple of compress_stride 16"),
        ({"select_block": 40}, "select_block 40"),
        ({"compress_stride": True}, "compress_stride"),
    ],
)
def test_options_that_make_no_model_are_refused(options, match):
    with pytest.raises(UserError, match=match):
        build_decoder(ModelSettings(mixer=Choice(name="nsa", options=options)), vocab_tokens=64, seed=0, device="cpu")


def test_what_has_no_meaning_for_it_is_refused():
    with pytest.raises(Unsupported, match="option window"):
        ENTRY.supports(replace(SHAPE, sliding_window=16), Position())
    with pytest.raises(Unsupported, match="compressed blocks"):
        ENTRY.supports(SHAPE, Slope())


def test_on_a_processor_the_plain_path_runs_and_is_named():
    assert make_mixer(ENTRY).implementation(torch.float32, gradients=True).startswith("torch, ")
