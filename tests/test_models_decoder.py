"""The decoder: its slots, its first weights, its loss, its number formats."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from efficientllm import catalog
from efficientllm.errors import UnknownNameError, Unsupported, UserError
from efficientllm.models.build import build_decoder, unsupported_reason
from efficientllm.models.cross_entropy import mean_cross_entropy, sum_cross_entropy
from efficientllm.models.mixers._probe import position_with
from efficientllm.models.norm import RMSNorm
from efficientllm.models.position._contract import Position, positions_of
from efficientllm.models.position.rope import RotaryPosition
from efficientllm.models.shape import resolve_shape
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

MIXERS, POSITIONS = catalog.names("mixer"), catalog.names("position")
SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96, "max_positions": 64}


def refusal(mixer, position):
    settings = ModelSettings(shape=SMALL, mixer=Choice(name=mixer), position=Choice(name=position), sequence_tokens=32)
    return unsupported_reason(settings, 96)


PAIRS = [(mixer, position) for mixer in MIXERS for position in POSITIONS if not refusal(mixer, position)]
OTHER_PAIRS = [(mixer, position) for mixer in MIXERS for position in POSITIONS if refusal(mixer, position)]


def build(mixer="gqa", position=None, vocab_tokens=96, seed=0, dtype=torch.float32, shape=SMALL, size="tiny"):
    position = Choice(name=position or position_with(mixer))
    settings = ModelSettings(size=size, shape=shape, mixer=Choice(name=mixer), position=position, sequence_tokens=32)
    return build_decoder(settings, vocab_tokens=vocab_tokens, seed=seed, device="cpu", dtype=dtype)


def roughen(decoder, deviation=0.1):
    """Leave the tidy first weights, so that a fault in any part shows in the logits."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * deviation).to(parameter.dtype))
    return decoder


def tokens(rows, length, vocab_tokens=96, seed=0):
    return torch.randint(vocab_tokens, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_ordinary_attention_takes_every_position_and_mla_all_that_bias_no_scores():
    assert {(mixer, position) for mixer in ("mha", "gqa", "mqa") for position in POSITIONS} <= set(PAIRS)
    biasing = {name for name in POSITIONS if build("mha", name).position.biases_scores}
    assert biasing == {"relative", "alibi"}
    assert {position for mixer, position in PAIRS if mixer == "mla"} == set(POSITIONS) - biasing
    assert "one rotary key that all heads share" in refusal("mla", "alibi")


@pytest.mark.parametrize(("mixer", "position"), PAIRS)
def test_token_by_token_gives_the_logits_of_all_at_once(mixer, position):
    decoder, x = roughen(build(mixer, position)), tokens(3, 29)
    with torch.inference_mode():
        expected = decoder(x)
        for fixed in (False, True):
            state = decoder.allocate(3, 32)
            if fixed:
                state.use_fixed_shapes()
            pieces = [decoder(x[:, :11], state=state), decoder(x[:, 11:17], state=state)]
            pieces += [decoder.step(x[:, i], state)[:, None] for i in range(17, 29)]
            torch.testing.assert_close(torch.cat(pieces, 1), expected, atol=2e-5, rtol=2e-5)
            assert state.length == 29 and state.next_1.item() == 29


@pytest.mark.parametrize(("mixer", "position"), PAIRS)
def test_packed_sequences_have_the_logits_of_the_same_ones_alone(mixer, position):
    decoder, x = roughen(build(mixer, position)), tokens(2, 24)
    ids = torch.tensor([[0] * 7 + [1] * 17, [5] * 20 + [0] * 4])
    packed = decoder(x, sequence_ids_BT=ids)
    for row, cut in ((0, 7), (1, 20)):
        alone = torch.cat([decoder(x[row : row + 1, :cut]), decoder(x[row : row + 1, cut:])], 1)
        torch.testing.assert_close(packed[row : row + 1], alone, atol=2e-5, rtol=2e-5)


def test_positions_follow_the_state_and_start_anew_in_each_packed_sequence():
    decoder, x, seen = build(position="none"), tokens(2, 6), []
    decoder.position.embed = lambda x_BTD, index_BT: (seen.append(index_BT.tolist()), x_BTD)[1]
    state = decoder.allocate(2, 8)
    with torch.no_grad():
        decoder(x, state=state)
        decoder.step(x[:, 0], state)
        decoder(x, sequence_ids_BT=torch.tensor([[3, 3, 3, 1, 1, 2], [0, 0, 0, 0, 0, 0]]))
        decoder(x, positions_BT=torch.tensor([[5, 6, 7, 8, 9, 10]]))
    packed = [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]
    assert seen == [[[0, 1, 2, 3, 4, 5]], [[6]], packed, [[5, 6, 7, 8, 9, 10]]]


@pytest.mark.parametrize("position", POSITIONS)
def test_a_position_tells_order_apart_where_it_claims_to(position):
    decoder = roughen(build("mha", position))
    x = tokens(1, 12)
    swapped = x[:, [1, 0, *range(2, 12)]]
    gap = (decoder(x)[:, -1] - decoder(swapped)[:, -1]).abs().max().item()
    one_layer = roughen(build("mha", position, shape={**SMALL, "num_layers": 1}))
    blind = torch.allclose(one_layer(x)[:, -1], one_layer(swapped)[:, -1], atol=1e-5)
    assert blind == (position == "none")  # one layer without positions sees a bag of tokens
    assert gap > 1e-4


@pytest.mark.parametrize("position", ["none", "rope", "relative", "alibi"])
@pytest.mark.parametrize("mixer", ["mha", "gqa", "mqa"])
def test_rows_may_say_their_positions_each_for_itself_in_a_fixed_step(mixer, position):
    decoder, x = roughen(build(mixer, position)), tokens(3, 12)
    with torch.inference_mode():
        expected, state = decoder(x), decoder.allocate(3, 16)
        state.use_fixed_shapes()
        decoder(x[:, :11], state=state)
        got = decoder(x[:, 11:], positions_BT=torch.full((3, 1), 11), state=state)
    torch.testing.assert_close(got, expected[:, 11:], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_rewound_state_goes_on_as_the_first_time(mixer):
    decoder, x = roughen(build(mixer)), tokens(2, 20)
    with torch.inference_mode():
        state = decoder.allocate(2, 20)
        decoder(x[:, :15], state=state)
        state.mark()
        first = decoder.step(x[:, 15], state)
        state.rewind(15)
        assert torch.equal(decoder.step(x[:, 15], state), first)
        assert state.length == state.next_1.item() == 16


def test_a_cache_without_room_stops_at_once():
    decoder, x = build(), tokens(2, 20)
    with torch.inference_mode():
        state = decoder.allocate(2, 20)
        decoder(x[:, :15], state=state)
        with pytest.raises(AssertionError, match="room for 20"):
            decoder(x, state=state)


def test_last_only_gives_the_last_tokens_logits():
    decoder, x = roughen(build()), tokens(2, 9)
    torch.testing.assert_close(decoder(x, last_only=True)[:, 0], decoder(x)[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mixer", MIXERS)
def test_loss_at_step_0_is_near_the_logarithm_of_the_vocabulary(mixer):
    decoder = build(mixer, vocab_tokens=2048, shape={})
    loss = decoder.loss(tokens(4, 64, 2048), tokens(4, 64, 2048, seed=1)).item()
    assert abs(loss - math.log(2048)) < 0.15


@pytest.mark.parametrize("size", ["small", "0.5b", "7b"])
def test_loss_at_step_0_is_near_it_at_every_width_tied_or_not(size):
    decoder = build(size=size, shape={"num_layers": 1, "mlp_width": 512}, vocab_tokens=4096)
    loss = decoder.loss(tokens(2, 32, 4096), tokens(2, 32, 4096, seed=1)).item()
    assert abs(loss - math.log(4096)) < 0.15


def test_the_seed_alone_decides_the_first_weights():
    before = torch.get_rng_state()
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embed.weight, other.embed.weight)


@pytest.mark.parametrize("mixer", MIXERS)
def test_decoders_that_differ_in_the_mixer_start_with_equal_weights_elsewhere(mixer):
    base, other = dict(build("gqa").named_parameters()), dict(build(mixer).named_parameters())
    shared = [name for name in base if ".mixer." not in name]
    assert len(shared) == 2 + 2 * 4
    assert all(torch.equal(base[name], other[name]) for name in shared)
    out, base_out = other["blocks.0.mixer.out.weight"], base["blocks.0.mixer.out.weight"]
    assert out.shape != base_out.shape or torch.equal(out, base_out)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_first_weights_are_the_same_numbers_in_every_format(mixer):
    for full, half in zip(build(mixer).parameters(), build(mixer, dtype=torch.bfloat16).parameters(), strict=True):
        torch.testing.assert_close(full.to(torch.bfloat16), half, atol=0, rtol=2**-7)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_give_nearly_the_same_logits_in_every_path(mixer, dtype):
    expected_from, x = roughen(build(mixer), 0.05), tokens(2, 21)
    decoder = build(mixer, dtype=dtype)
    decoder.load_state_dict(expected_from.state_dict())
    with torch.inference_mode():
        expected = expected_from(x)
        state = decoder.allocate(2, 24)
        assert state.layers[0].tensors()[0].dtype == dtype  # what grows with the text, or what came in last
        stepped = [decoder(x[:, :15], state=state)] + [decoder.step(x[:, i], state)[:, None] for i in range(15, 21)]
        for got in (decoder(x), torch.cat(stepped, 1)):
            assert got.dtype == dtype
            assert (got.float() - expected).abs().max() < 0.06 * expected.abs().max()


@pytest.mark.parametrize("mixer", MIXERS)
def test_bfloat16_autocast_over_float32_weights_trains_nearly_alike(mixer):
    decoder, x, y = roughen(build(mixer), 0.03), tokens(2, 45), tokens(2, 45, seed=1)
    results = []
    for enabled in (False, True):
        decoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = decoder.loss(x, y)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in decoder.parameters()])
        results.append((loss.item(), gradient))
    assert results[0][0] == pytest.approx(results[1][0], rel=2e-3)
    assert F.cosine_similarity(results[0][1], results[1][1], dim=0) > 0.995
    assert results[0][1].dtype == results[1][1].dtype == torch.float32


def test_the_rotary_angles_keep_their_precision_when_the_model_is_cast_or_moved():
    encoding = RotaryPosition(resolve_shape(ModelSettings(), 96), 64)
    expected = encoding.frequencies.clone()
    for moved in (encoding.to(torch.bfloat16), encoding.half(), encoding.to("meta").to_empty(device="cpu")):
        assert torch.equal(moved.frequencies, expected)


def test_rope_makes_scores_depend_on_distance_only():
    shape = resolve_shape(ModelSettings(), 96)
    encoding = RotaryPosition(shape, 64)
    q, k = torch.randn(1, 2, 5, 64), torch.randn(1, 2, 5, 64)
    near, far = (encoding.at(torch.arange(5)[None] + shift, torch.float32).rotate(q, k) for shift in (0, 1000))
    torch.testing.assert_close(near[0] @ near[1].mT, far[0] @ far[1].mT, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(near[0] @ near[1].mT, q @ k.mT, atol=1e-2)


def test_what_all_layers_share_is_computed_once():
    places, calls = positions_of(Position(), 3), []
    for _ in range(2):
        places.once("mask", lambda: calls.append(1))
    assert calls == [1]


@pytest.mark.parametrize("logits_bytes", [1, 4 * 96 * 7, 2**30])
def test_the_chunked_loss_and_its_gradients_are_those_of_plain_cross_entropy(logits_bytes):
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(33, 16, generator=generator), torch.randn(96, 16, generator=generator)
    targets = tokens(1, 33)[0]
    targets[[2, 9, 30]] = -100
    results = []
    for loss_of in (
        lambda h, w: 2.5 * F.cross_entropy(h @ w.t(), targets, ignore_index=-100),
        lambda h, w: 2.5 * mean_cross_entropy(h, w, targets, logits_bytes),
    ):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = loss_of(h, w)
        loss.backward()
        results.append((loss.detach(), h.grad, w.grad))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    total, count = sum_cross_entropy(hidden, head, targets, logits_bytes)
    expected = F.cross_entropy(hidden @ head.t(), targets, ignore_index=-100, reduction="sum")
    assert count.item() == 30 and total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_chunked_loss_of_half_precision_keeps_its_small_gradients():
    hidden = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0)).half().requires_grad_()
    head = torch.randn(32, 8, generator=torch.Generator().manual_seed(1)).half().requires_grad_()
    mean_cross_entropy(hidden, head, tokens(1, 4096, 32)[0], logits_bytes=4 * 32 * 100).backward()
    reference = head.detach().float().requires_grad_()
    F.cross_entropy(hidden.detach().float() @ reference.t(), tokens(1, 4096, 32)[0]).backward()
    torch.testing.assert_close(head.grad.float(), reference.grad, atol=2e-4, rtol=2e-2)


def test_the_summed_loss_is_that_of_the_mean_times_its_count():
    decoder, x, y = roughen(build()), tokens(2, 21), tokens(2, 21, seed=1)
    y[0, :5] = -100
    total, count = decoder.loss_sum(x, y)
    assert count.item() == 37
    assert total.item() / 37 == pytest.approx(decoder.loss(x, y).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rmsnorm_is_its_formula_in_results_and_gradients_in_every_path(dtype):
    x = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    pull = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    norm = RMSNorm(24, eps=1e-2).to(dtype)
    with torch.no_grad():
        norm.weight.add_(torch.linspace(-0.5, 0.5, 24).to(dtype))
    given, wide, gain = x.clone().requires_grad_(), x.double().requires_grad_(), norm.weight.detach().double()
    gain.requires_grad_()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-2).sqrt() * gain
    expected.backward(pull.double())
    got = norm(given)
    got.backward(pull)
    with torch.no_grad():
        alone = norm(x)
    limit = 1e-5 if dtype == torch.float32 else 3e-2
    for a, b in ((got, expected), (alone, expected), (given.grad, wide.grad), (norm.weight.grad, gain.grad)):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b.double(), atol=limit * 4, rtol=limit)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_few_steps_learn_a_short_text_by_heart(mixer):
    decoder, x = build(mixer), tokens(1, 33)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    for _ in range(60):
        loss = decoder.loss(x[:, :-1], x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in decoder.parameters())
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_learns_what_only_the_past_tells(mixer):
    decoder = build(mixer, vocab_tokens=16, shape={**SMALL, "num_layers": 1})
    optimizer, generator = torch.optim.AdamW(decoder.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    for _ in range(60):
        start = torch.randint(16, (16, 1), generator=generator)
        x = (start + 5 * torch.arange(18).div(2, rounding_mode="floor")) % 16  # every token twice
        loss = decoder.loss(x[:, :-1], x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last_token_alone = math.log(2)  # again, or the next? All tokens are equally likely: ln 16 without any
    assert loss.item() < 0.5 * last_token_alone


def test_tied_embeddings_are_one_matrix():
    tied, untied = build(), build(shape={**SMALL, "tie_embeddings": False})
    assert tied.head is None and tied.head_weight is tied.embed.weight
    assert untied.head_weight is not untied.embed.weight
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 96 * 64


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"mixer": Choice(name="mla", options={"latent_rnk": 3})}, "Did you mean 'latent_rank'.*nope_dim, rope_dim"),
        ({"mixer": Choice(name="gqa", options={"x": 3})}, "unknown option 'x' of mixer gqa. It has no options"),
        ({"position": Choice(name="rope", options={"base": 3})}, "unknown option 'base' of position rope"),
        ({"mlp": Choice(name="dense", options={"experts": 3})}, "unknown option 'experts' of mlp dense"),
    ],
)
def test_an_option_that_a_slot_does_not_have_is_refused_with_those_it_has(choices, says):
    with pytest.raises(UserError, match=says):
        build_decoder(ModelSettings(**choices), vocab_tokens=96, seed=0, device="cpu")


def test_an_unknown_slot_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'mla'"):
        build_decoder(ModelSettings(mixer=Choice(name="mla2")), vocab_tokens=96, seed=0, device="cpu")


@pytest.mark.parametrize(("mixer", "position"), OTHER_PAIRS)
def test_a_mixer_refuses_a_position_that_it_cannot_serve_and_says_why(mixer, position):
    with pytest.raises(Unsupported, match=f"^{mixer} "):
        build(mixer, position)


def test_slots_that_do_not_go_together_are_unsupported_with_a_reason():
    with pytest.raises(Unsupported, match="qk_norm"):
        build("mla", shape={**SMALL, "qk_norm": True})


def test_a_users_own_file_fills_a_slot(tmp_path):
    path = tmp_path / "narrow.py"
    path.write_text(
        '"""Grouped-query attention with a given number of groups."""\n'
        "from dataclasses import replace\n"
        "from efficientllm.models.mixers._contract import MixerEntry\n"
        "from efficientllm.models.mixers.gqa import GroupedQueryAttention\n"
        "from efficientllm.records.card import Card\n"
        "def narrow(shape, groups=1):\n"
        "    return GroupedQueryAttention(replace(shape, num_kv_heads=groups))\n"
        "ENTRY = MixerEntry(card=Card(title='Narrow', source='here'), build=narrow)\n"
    )
    choice = Choice(name="narrow", path=str(path), options={"groups": 4})
    decoder = build_decoder(ModelSettings(mixer=choice), vocab_tokens=96, seed=0, device="cpu")
    assert decoder.block(0).mixer.shape == replace(decoder.shape, num_kv_heads=4)
    with pytest.raises(UserError, match="is a MixerEntry, not a MlpEntry"):
        build_decoder(ModelSettings(mlp=choice), vocab_tokens=96, seed=0, device="cpu")
