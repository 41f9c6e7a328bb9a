"""Recurrent mixers: their states' marks, their chunks at hard inputs, and which kernels they take."""

import sys
from types import SimpleNamespace

import pytest
import torch

from efficientllm import registry
from efficientllm.errors import Unsupported, UserError
from efficientllm.models.build import build_decoder
from efficientllm.models.mixers import _kernels
from efficientllm.models.mixers._chunked import CHUNK_TOKENS
from efficientllm.models.mixers._probe import BATCH, CPU, SHAPE, apply_still, empty_state, in_chunks, make_mixer, tokens
from efficientllm.models.mixers._recurrent import RecurrentMixer, RecurrentState
from efficientllm.models.mixers._runs import Runs
from efficientllm.models.position._contract import Position, positions_of
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

NAMES = ["mamba2", "gated_deltanet", "rwkv7"]


def mixer_of(name):
    mixer = make_mixer(registry.load("mixer", name))
    assert isinstance(mixer, RecurrentMixer)
    return mixer


def build(name, position="none", shape=None, **options):
    mixer = Choice(name=name, options=options)
    settings = ModelSettings(mixer=mixer, position=Choice(name=position), shape=shape or {})
    return build_decoder(settings, vocab_tokens=64, seed=0, device="cpu")


def test_a_state_goes_back_to_any_of_its_marks_and_gives_up_those_beyond():
    state = RecurrentState((1, 2), (1, 2, 2), 3, torch.float32, CPU)
    for length in range(1, 6):
        state.recent.fill_(length)
        state.memory.fill_(10 * length)
        state.advance(1)
        if length in (2, 4):
            state.mark()
    for length in (4, 2, 2):
        state.rewind(length)
        assert (state.length, state.recent.unique().item(), state.memory.unique().item()) == (
            length,
            length,
            10 * length,
        )
    with pytest.raises(AssertionError, match="goes back to 0, 2 tokens, not to 4"):
        state.rewind(4)
    state.rewind(0)
    assert not state.recent.any() and not state.memory.any()
    with pytest.raises(AssertionError, match="goes back to 0 tokens, not to 2"):
        state.rewind(2)


def test_a_mark_costs_nothing_until_it_is_made():
    mixer = mixer_of("mamba2")
    state = mixer.allocate(BATCH, 9, torch.bfloat16, CPU)
    assert sum(part.nbytes for part in state.tensors()) == BATCH * mixer.state_bytes(2)
    assert not state._marks


@pytest.mark.parametrize("name", NAMES)
def test_what_recording_a_graph_does_to_the_state_is_taken_back(name):
    decoder, x = build(name), torch.arange(22).view(2, 11)
    with torch.inference_mode():
        state = decoder.allocate(2, 16)
        decoder(x[:, :10], state=state)
        expected = [part.clone() for layer in state.layers for part in layer.tensors()]
        state.mark()
        for _ in range(3):  # as in NativeEngine: the step alone, which the host does not count, then back
            decoder.run(x[:, 10:], state=state)
            state.advance(1)
            state.rewind(10)
        kept = [part for layer in state.layers for part in layer.tensors()]
    assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))
    assert state.length == state.next_1.item() == 10


@pytest.mark.parametrize("name", NAMES)
def test_gradients_do_not_flow_through_a_state_but_through_the_tokens_at_hand(name):
    mixer, x = mixer_of(name), tokens(9).requires_grad_()
    state = empty_state(mixer, 20, fixed=False)
    for start, part in ((0, x[:, :4]), (4, x[:, 4:5]), (5, x[:, 5:])):
        out = mixer(part, Position().at(torch.arange(start, start + part.shape[1])[None], torch.float32), state)
        state.advance(part.shape[1])
    out.sum().backward()
    assert not any(part.requires_grad for part in state.tensors())
    assert not x.grad[:, :5].any() and x.grad[:, 5:].abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_last_tokens_of_short_chunks_are_remembered(name):
    mixer, x = mixer_of(name), tokens(13)
    got = in_chunks(mixer, x, [2, 2, 1, 2, 3, 3], empty_state(mixer, 13, fixed=False))
    torch.testing.assert_close(got, apply_still(mixer, x), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_id_that_comes_back_is_a_sequence_of_its_own(name):
    mixer, x = mixer_of(name), tokens(40)
    ids = torch.tensor([[4] * 11 + [9] * 20 + [4] * 9])
    alone = torch.cat([apply_still(mixer, part) for part in x.split([11, 20, 9], 1)], 1)
    positions = positions_of(Position(), 40)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, positions, None, ids), alone, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("tokens_in_chunks", [1, CHUNK_TOKENS, CHUNK_TOKENS + 1, 3 * CHUNK_TOKENS - 1])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_exact_for_every_speed_of_fading(name, tokens_in_chunks):
    mixer, generator = mixer_of(name), torch.Generator().manual_seed(0)
    parts = mixer.project(torch.randn(2, tokens_in_chunks, SHAPE.width, generator=generator))
    taken, _ = mixer.inputs(parts, None, None, plain=True)
    decay = {"mamba2": 3, "gated_deltanet": 3, "rwkv7": 1}[name]
    fastest = 0.6065 if name == "rwkv7" else 200.0  # rwkv7's is bounded, the others forget all at a token
    slow = torch.rand(taken[decay].shape, generator=generator) < 0.7
    speeds = torch.where(slow, 1e-3, fastest)
    given = [x.detach() for x in taken]
    given[decay] = -speeds
    with torch.no_grad():
        expected = mixer.recurrence(tuple(given), torch.ones(2, tokens_in_chunks))
        got, _ = mixer.chunks(tuple(given), None, None)
    torch.testing.assert_close(got, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


def test_runs_are_numbered_in_each_row_and_bounded_over_all():
    runs = Runs.of(torch.tensor([[3, 3, 1, 1], [5, 2, 2, 5]]), positions_of(Position(), 4))
    assert runs.numbers_BT.tolist() == [[0, 0, 1, 1], [0, 1, 1, 2]]
    assert runs.together(1).tolist() == [[False, True, False, True], [False, False, True, False]]
    assert runs.bounds(2).tolist() == [0, 2, 4, 5, 7, 8]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("position", "shape", "says"),
    [
        ("rope", {}, "rotary position.*choose position none"),
        ("none", {"sliding_window": 8}, "sliding_window has no place"),
        ("none", {"qk_norm": True}, "qk_norm has no place"),
    ],
)
def test_what_only_attention_has_is_unsupported_with_the_reason(name, position, shape, says):
    with pytest.raises(Unsupported, match=says):
        build(name, position, shape)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mamba2", {"state_dim": 0}, "option state_dim of mixer mamba2 is 0"),
        ("mamba2", {"head_dim": 48}, "head_dim 48 of mixer mamba2 does not divide its inner width 512"),
        ("mamba2", {"conv_taps": 1}, "conv_taps of mixer mamba2 is 1. Give a whole number from 2"),
        ("rwkv7", {"gate_rank": 2.5}, "option gate_rank of mixer rwkv7 is 2.5"),
        ("rwkv7", {"head_dim": 48}, "head_dim 48 of mixer rwkv7 does not divide the width 256"),
        ("gated_deltanet", {"num_heads": -1}, "option num_heads of mixer gated_deltanet is -1"),
    ],
)
def test_an_option_that_makes_no_model_is_a_users_error(name, options, says):
    with pytest.raises(UserError, match=says):
        build(name, **options)


def test_options_are_the_layers_counts():
    assert build("mamba2", expand=1, head_dim=32, state_dim=16).block(0).mixer.memory_shape == (16, 8, 32)
    deltanet = build("gated_deltanet", num_heads=5, key_dim=24, value_dim=40, conv_taps=3).block(0).mixer
    assert (deltanet.memory_shape, deltanet.recent_shape) == ((5, 24, 40), (2, 5 * 88))
    assert build("rwkv7", decay_rank=8, head_dim=32).block(0).mixer.w_down.out_features == 8


@pytest.mark.parametrize("name", NAMES)
def test_a_processor_is_served_by_torch_and_says_so(name):
    for dtype in (torch.float32, torch.bfloat16):
        assert mixer_of(name).implementation(dtype, gradients=True) == f"torch, in chunks of {CHUNK_TOKENS} tokens"


@pytest.mark.parametrize(
    ("hopper", "since", "mended", "serves"),
    [(True, True, False, False), (True, True, True, True), (True, False, False, True), (False, True, False, True)],
)
def test_a_kernel_whose_gradients_are_wrong_on_this_device_serves_without_gradients_only(
    hopper, since, mended, serves, monkeypatch
):
    def function():
        pass

    flags = {"IS_NVIDIA_HOPPER": hopper, "TRITON_ABOVE_3_4_0": since, "TRITON_ABOVE_3_7_1": mended}
    for name, content in (("fla", {}), ("fla.utils", flags), ("fla.part", {"function": function})):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    caches = (_kernels._load, _kernels._gated_backward_is_wrong)
    for cache in caches:
        cache.cache_clear()
    cuda, kernel = torch.device("cuda"), _kernels.Kernel("fla.part", "function", gated_backward=True)
    try:
        assert kernel.find(cuda, torch.bfloat16, gradients=False) is function
        assert (kernel.find(cuda, torch.bfloat16, gradients=True) is function) == serves
        assert kernel.find(cuda, torch.float32, gradients=False) is None
        assert kernel.find(CPU, torch.bfloat16, gradients=False) is None
        assert _kernels.Kernel("fla.part", "missing").find(cuda, torch.bfloat16, gradients=False) is None
        assert _kernels.Kernel("no_such_package", "f").find(cuda, torch.bfloat16, gradients=False) is None
    finally:
        for cache in caches:
            cache.cache_clear()
