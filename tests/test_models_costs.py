"""Costs: against numbers worked out by hand, and against torch's counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientllm import catalog, registry
from efficientllm.models import costs
from efficientllm.models.assemble import assemble
from efficientllm.models.build import build_decoder
from efficientllm.models.mixers._probe import position_with
from efficientllm.models.shape import resolve_shape
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

MIXERS, MLPS = catalog.names("mixer"), catalog.names("mlp")


def build(mixer="gqa", vocab_tokens=2048, dtype=torch.float32, device="cpu", size="tiny", mlp=None, **shape):
    slots = {
        "mixer": Choice(name=mixer),
        "position": Choice(name=position_with(mixer)),
        "mlp": mlp or Choice(name="dense"),
    }
    settings = ModelSettings(size=size, shape=shape, **slots)
    return build_decoder(settings, vocab_tokens=vocab_tokens, seed=0, device=device, dtype=dtype)


def test_the_parameters_of_tiny_are_those_worked_out_by_hand():
    facts = costs.facts(build(), dtype_bytes=4, train_tokens=256)
    qkv, out, mlp, norms = (256 + 2 * 128) * 256, 256 * 256, 3 * 256 * 704, 2 * 256
    assert facts.parameters_embedding == 2048 * 256
    assert facts.parameters_total == 4 * (qkv + out + mlp + norms) + 256 + 2048 * 256
    assert facts.parameters_active == facts.parameters_total
    assert facts.weight_bytes == 4 * facts.parameters_total
    assert facts.cache_bytes_per_token == 4 * 2 * 2 * 64 * 4  # layers, keys and values, heads, width, bytes
    assert facts.state_bytes == 0


@pytest.mark.parametrize(
    ("size", "billions"),
    [("0.5b", 0.494), ("1.5b", 1.544), ("3b", 3.086), ("7b", 7.616), ("14b", 14.77), ("72b", 72.7)],
)
def test_the_named_sizes_have_the_parameters_that_qwen_publishes(size, billions):
    decoder = _on_meta(size)
    vocabulary = 152_064 if billions > 7 else 151_936
    rows = 1 if decoder.head is None else 2
    total = costs.num_parameters(decoder) + (vocabulary - 8) * decoder.shape.width * rows
    assert total / 1e9 == pytest.approx(billions, rel=1e-3)


def _on_meta(size):
    settings = ModelSettings(size=size)
    return assemble(resolve_shape(settings, 8), settings, device="meta", dtype=torch.bfloat16)


def test_the_flops_of_tiny_are_those_worked_out_by_hand():
    decoder = build()
    weights = 4 * ((256 + 2 * 128) * 256 + 256 * 256 + 3 * 256 * 704) + 2048 * 256
    pairs = 256 * 257 // 2  # a token and all before it
    forward = 2 * 256 * weights + 4 * pairs * (2 * 2 * 4 * 64)  # layers × two products × two operations × heads × width
    assert costs.forward_flops(decoder, 256) == forward
    assert costs.facts(decoder, 4, train_tokens=256).train_flops_per_token == 3 * forward / 256
    work = costs.train_work(decoder, rows=8, tokens=256)
    assert (work.tokens, work.samples, work.model_flops) == (2048, 8, 3 * 8 * forward)


def test_a_decode_step_of_tiny_costs_what_is_worked_out_by_hand():
    decoder = build()
    weights = 4 * ((256 + 2 * 128) * 256 + 256 * 256 + 3 * 256 * 704) + 2048 * 256
    work = costs.decode_work(decoder, batch=3, context=1000)
    assert (work.tokens, work.samples) == (3, 3)
    assert work.model_flops == 3 * (2 * weights + 4 * 1001 * 2 * 2 * 256)
    cache_token = 4 * 2 * 2 * 64 * 4
    held = costs.facts(decoder, 4, 256).weight_bytes
    assert work.moved_bytes == held + 3 * 256 * 4 + 3 * 1000 * cache_token + 3 * cache_token
    assert work.working_set_bytes == work.moved_bytes


def test_an_untied_embedding_is_not_read_as_a_whole():
    tied, untied = build(), build(tie_embeddings=False)
    assert costs.decode_work(untied, 1, 10).moved_bytes == costs.decode_work(tied, 1, 10).moved_bytes
    assert costs.facts(untied, 4, 256).parameters_embedding == 2 * 2048 * 256


def test_a_prefill_needs_the_head_once_a_row():
    decoder = build()
    work = costs.prefill_work(decoder, batch=2, tokens=64)
    layers = costs.forward_flops(decoder, 64) - 64 * 2 * 2048 * 256
    assert (work.tokens, work.samples) == (128, 2)
    assert work.model_flops == 2 * (layers + 2 * 2048 * 256)


def test_a_sliding_window_bounds_what_a_step_reads_and_computes():
    decoder = build(sliding_window=128)
    near, far = costs.decode_work(decoder, 1, 128), costs.decode_work(decoder, 1, 8000)
    assert near.moved_bytes == far.moved_bytes
    assert near.model_flops == far.model_flops


def test_latent_attention_costs_what_is_worked_out_by_hand():
    decoder = build("mla")
    rank, rope, nope, value, heads, width = 32, 32, 64, 64, 4, 256
    down = width * (heads * (nope + rope) + rank + rope)
    up, out = rank * heads * (nope + value), heads * value * width
    assert decoder.block(0).mixer.num_parameters() == down + rank + up + out
    mixer = decoder.block(0).mixer
    assert mixer.model_flops(10) == 2 * 10 * (down + up + out) + 55 * 2 * heads * (nope + rope + value)
    assert mixer.model_flops(1, 99) == 2 * (down + up + out) + 100 * 2 * heads * (rank + rope + rank)
    assert costs.cache_bytes_per_token(decoder, 2) == 4 * (rank + rope) * 2


def test_mamba2_costs_what_is_worked_out_by_hand():
    width, inner, heads, head, state = 256, 512, 8, 64, 128
    channels = inner + 2 * state
    proj, conv, out = width * (inner + channels + heads), 4 * channels, inner * width
    mixer = build("mamba2").block(0).mixer
    assert mixer.num_parameters() == proj + conv + channels + 3 * heads + inner + out
    token = 2 * (proj + conv + out) + 2 * heads * (2 * state * head)  # a write and a read of each head's matrix
    assert mixer.model_flops(10) == mixer.model_flops(10, 99) == mixer.reference_flops(10) == 10 * token
    assert mixer.state_bytes(2) == 3 * channels * 2 + heads * state * head * 4
    assert mixer.cache_bytes_per_token(2) == 0


def test_gated_deltanet_costs_what_is_worked_out_by_hand():
    width, heads, key, value = 256, 3, 64, 128
    channels = heads * (2 * key + value)
    proj, conv, out = width * (channels + heads * value + 2 * heads), 4 * channels, heads * value * width
    mixer = build("gated_deltanet").block(0).mixer
    assert mixer.num_parameters() == proj + conv + 2 * heads + value + out
    token = 2 * (proj + conv + out) + 3 * heads * (2 * key * value)  # recall, write, read
    assert mixer.model_flops(10) == mixer.model_flops(10, 99) == mixer.reference_flops(10) == 10 * token
    assert mixer.state_bytes(2) == 3 * channels * 2 + heads * key * value * 4


def test_rwkv7_costs_what_is_worked_out_by_hand():
    width, heads, head, small, gate = 256, 4, 64, 32, 64  # 1.8 * 16 / 32 and .6 * 84.4 / 32 rounded, times 32
    square, low = 4 * width * width, 2 * width * (2 * small + gate)
    vectors = 6 * width + 5 * width + 2 * width  # shares of the token before; two biases, two scales, bonus; the norm
    mixer = build("rwkv7").block(0).mixer
    assert mixer.num_parameters() == square + low + vectors
    token = 2 * (square + low) + 4 * heads * (2 * head * head)  # recall, two writes, read
    assert mixer.model_flops(10) == mixer.model_flops(10, 99) == mixer.reference_flops(10) == 10 * token
    assert mixer.state_bytes(2) == width * 2 + heads * head * head * 4


@pytest.mark.parametrize(
    ("mixer", "published"),
    [
        ("mamba2", lambda width: 6 * width**2),
        ("gated_deltanet", lambda width: 6 * width**2),
        ("rwkv7", lambda width: 4 * width**2),
    ],
)
@pytest.mark.parametrize("size", ["small", "0.5b", "1.5b", "3b", "7b"])
def test_a_recurrent_mixer_has_about_the_parameters_of_the_published_layer(mixer, published, size):
    shape = resolve_shape(ModelSettings(size=size), 8)
    with torch.device("meta"):
        held = registry.load("mixer", mixer).build(shape).num_parameters()
    assert 0.94 * published(shape.width) < held < 1.3 * published(shape.width)


@pytest.mark.parametrize("mixer", ["mamba2", "gated_deltanet", "rwkv7"])
def test_a_decode_step_reads_and_writes_a_constant_state_whatever_the_context(mixer):
    decoder = build(mixer)
    held = sum(decoder.block(number).mixer.state_bytes(4) for number in range(4))
    assert held == costs.facts(decoder, 4, 256).state_bytes == decoder.allocate(3, 9).state_bytes()
    near, far = costs.decode_work(decoder, 3, 10), costs.decode_work(decoder, 3, 10_000)
    assert near == far
    weights = costs.facts(decoder, 4, 256).weight_bytes + 3 * 256 * 4  # and the rows of three tokens
    assert near.moved_bytes == weights + 2 * 3 * held
    assert near.working_set_bytes == weights + 3 * held


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_training_step_of_the_reference_executes_what_the_decoder_says(mixer):
    decoder = build(mixer, num_layers=2)
    for number in range(2):
        layer = decoder.block(number).mixer
        layer.forward = lambda x, positions, state, ids, layer=layer: layer.reference(x, positions, ids)
    x = torch.randint(2048, (2, 31))
    with FlopCounterMode(display=False) as counter:
        decoder.loss(x, x).backward()
    assert counter.get_total_flops() == pytest.approx(3 * 2 * costs.reference_flops(decoder, 31), rel=0.01)


@pytest.mark.parametrize("mlp", MLPS)
def test_an_mlp_executes_the_operations_and_holds_the_parameters_that_it_says(mlp):
    layer = registry.load("mlp", mlp).build(resolve_shape(ModelSettings(), 96))
    with FlopCounterMode(display=False) as counter:
        out = layer.reference(torch.randn(2, 7, 256))
    assert out.shape == (2, 7, 256)
    assert counter.get_total_flops() == pytest.approx(layer.reference_flops(14), rel=0.01)
    assert layer.num_parameters() == sum(p.numel() for p in layer.parameters())
    assert 0 < layer.num_active_parameters() <= layer.num_parameters()


EXPERT, ROUTER = 3 * 256 * 704, 256 * 8
MIXTURE = Choice(name="moe", options={"shared_experts": 1})


def test_a_mixture_stores_all_experts_and_uses_two_and_the_shared_one():
    facts = costs.facts(build(mlp=MIXTURE), dtype_bytes=4, train_tokens=256)
    others = 4 * ((256 + 2 * 128) * 256 + 256 * 256 + 2 * 256) + 256 + 2048 * 256
    assert facts.parameters_total == others + 4 * (9 * EXPERT + ROUTER)
    assert facts.parameters_active == others + 4 * (3 * EXPERT + ROUTER)
    assert facts.weight_bytes == 4 * facts.parameters_total


def test_training_a_mixture_computes_with_active_parameters_and_moves_stored_ones():
    decoder = build(mlp=MIXTURE)
    weights = 4 * ((256 + 2 * 128) * 256 + 256 * 256 + 3 * EXPERT + ROUTER) + 2048 * 256
    forward = 2 * 256 * weights + 4 * (256 * 257 // 2) * (2 * 2 * 4 * 64)
    facts, work = costs.facts(decoder, 4, train_tokens=256), costs.train_work(decoder, rows=8, tokens=256)
    assert facts.train_flops_per_token == 3 * forward / 256
    assert work.model_flops == 3 * 8 * forward
    # weight read three times and written, gradient written and read, two moments read and written
    assert work.moved_bytes == 10 * 4 * facts.parameters_total
    assert work.working_set_bytes == 4 * 4 * facts.parameters_total


@pytest.mark.parametrize(
    ("tokens", "experts"),
    [
        (1, 2.0),  # its own two
        (2, 2 + 2 * 6 / 8),  # each of the second token's is new with probability 6/8
        (3, 8 - 8 * (3 / 4) ** 3),
        (1000, 8.0),
    ],
)
def test_a_decode_step_of_a_mixture_reads_the_experts_that_its_tokens_are_expected_to_touch(tokens, experts):
    decoder = build(mlp=MIXTURE)
    layer = decoder.block(0).mlp
    assert layer.read_parameters(tokens) == pytest.approx(ROUTER + EXPERT + experts * EXPERT, rel=1e-9)
    dense = costs.decode_work(build(), tokens, context=100)
    work = costs.decode_work(decoder, tokens, context=100)
    more = 4 * 4 * (ROUTER + experts * EXPERT)  # layers, bytes; the shared expert is as large as the dense layer
    assert work.moved_bytes - dense.moved_bytes == pytest.approx(more, rel=1e-6)
    assert work.model_flops - dense.model_flops == tokens * 2 * 4 * (ROUTER + 2 * EXPERT)


def test_the_papers_mixture_of_the_half_billion_shape():
    settings = ModelSettings(size="0.5b", mlp=Choice(name="moe"))
    decoder = assemble(resolve_shape(settings, 151_936), settings, device="meta", dtype=torch.bfloat16)
    facts = costs.facts(decoder, 2, 2048)
    expert = 3 * 896 * 4864
    assert facts.parameters_total == pytest.approx(0.494e9 + 24 * (7 * expert + 8 * 896), rel=1e-3)
    assert facts.parameters_active == pytest.approx(0.494e9 + 24 * (expert + 8 * 896), rel=1e-3)


def test_a_training_step_of_a_mixtures_reference_executes_what_the_decoder_says():
    decoder = build(num_layers=2, mlp=MIXTURE)
    for number in range(2):
        layer, mixer = decoder.block(number).mlp, decoder.block(number).mixer
        layer.forward = layer.reference
        mixer.forward = lambda x, positions, state, ids, mixer=mixer: mixer.reference(x, positions, ids)
    x = torch.randint(2048, (2, 31))
    with FlopCounterMode(display=False) as counter:
        decoder.loss(x, x).backward()
    assert counter.get_total_flops() == pytest.approx(3 * 2 * costs.reference_flops(decoder, 31), rel=0.01)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_state_of_a_decoder_is_as_large_as_its_facts_say(mixer):
    decoder = build(mixer, dtype=torch.bfloat16)
    assert decoder.allocate(2, 10).bytes_per_token() == costs.facts(decoder, 2, 256).cache_bytes_per_token
    assert decoder.allocate(2, 10).state_bytes() == costs.facts(decoder, 2, 256).state_bytes
    assert costs.facts(decoder, 2, 256).weight_bytes == 2 * costs.num_parameters(decoder)
