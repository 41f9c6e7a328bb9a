"""Every format of the cache holds what it says in the bits that it says, in every mixer that has a cache to hold."""

import pytest
import torch

from efficientllm import catalog, registry
from efficientllm.engines.native import NativeEngine, open_native
from efficientllm.errors import UnknownNameError, Unsupported, UserError
from efficientllm.models import costs
from efficientllm.models.build import build_decoder
from efficientllm.models.generate import generate
from efficientllm.models.mixers._probe import position_with
from efficientllm.precision.cache.choose import load_coder
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import InferenceSettings

FORMATS = catalog.names("cache_format")
#: The largest relative error of logits beside a plain cache's: of a number e4m3 keeps four bits, int8 seven of the
#: largest of a head.
BOUNDS = {"kv_int8": 0.02, "kv_fp8": 0.06}
SHAPE = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96}
CACHED = ("gqa", "mha", "mqa", "mla")


def coder_of(name):
    return load_coder(Choice(name=name))


def decoder_of(mixer="gqa", dtype=torch.float32, coder=None, **shape):
    settings = ModelSettings(
        shape=SHAPE | shape, mixer=Choice(name=mixer), position=Choice(name=position_with(mixer)), sequence_tokens=16
    )
    decoder = build_decoder(settings, vocab_tokens=96, seed=0, device="cpu", dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    for parameter in decoder.blocks.parameters():  # rough, so that attention is no mean over all tokens
        parameter.data += torch.randn(parameter.shape, generator=generator).to(dtype) * 0.1
    decoder.eval().requires_grad_(False).code_cache(coder)
    return decoder


def text(rows=3, length=40, seed=0):
    return torch.randint(96, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(decoder, tokens, pieces, room=48, fixed=False):
    state = decoder.allocate(len(tokens), room)
    if fixed:
        state.use_fixed_shapes()
    return torch.cat([decoder(part, state=state) for part in tokens.split(pieces, 1)], 1)


def gap(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


def near_the_plain_cache(coder, bound, mixer="gqa"):
    """Fails unless a coded cache changes logits, and by no more than the bound, however the tokens come."""
    plain, coded = decoder_of(mixer), decoder_of(mixer, coder=coder)
    whole = logits(plain, text(), [40])
    for pieces, fixed in (([40], False), ([13, 1, 1, 20, 5], False), ([1] * 40, True)):
        assert 1e-6 < gap(logits(coded, text(), pieces, fixed=fixed), whole) < bound


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mixer", CACHED)
def test_logits_are_near_those_of_a_plain_cache(mixer, name):
    near_the_plain_cache(coder_of(name), BOUNDS[name], mixer)


@pytest.mark.parametrize("name", FORMATS)
def test_a_caches_faults_show(name):
    right = type(coder_of(name))

    class OfAnotherToken(right):
        def decode(self, coded, dtype):
            return super().decode((coded[0], coded[1].roll(1, -2) * 1), dtype)

    class OfAnotherHead(right):
        def decode(self, coded, dtype):
            return super().decode((coded[0], coded[1].roll(1, -3)), dtype)

    for wrong in (OfAnotherToken, OfAnotherHead):
        with pytest.raises(AssertionError):
            near_the_plain_cache(wrong(), BOUNDS[name])


@pytest.mark.parametrize("window", [0, 12])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mixer", CACHED)
def test_what_a_token_sees_is_what_is_cached_however_the_tokens_come(mixer, name, window):
    decoder = decoder_of(mixer, coder=coder_of(name), sliding_window=window)
    whole = logits(decoder, text(), [40])
    for pieces in ([13, 1, 1, 20, 5], [1] * 40):
        for fixed in (False, True):
            # a number between two codes may fall on either side, as a kernel's last digit wills
            assert gap(logits(decoder, text(), pieces, fixed=fixed), whole) < 5e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMATS)
def test_numbers_come_back_as_near_as_the_format_has_values(name, dtype):
    coder = coder_of(name)
    x = torch.randn(2, 3, 50, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 50)[:, None]
    x = x.to(dtype)
    x[0, 0, 3], x[0, 1, 4, 5] = 0.0, 1e4
    got = coder.decode(coder.encode(x), dtype)
    assert got.dtype == dtype and got.isfinite().all() and got[0, 0, 3].abs().max() == 0
    largest = x.float().abs().amax(-1, keepdim=True)
    own = 2**-8 if dtype == torch.bfloat16 else 2**-11  # of reading in that type
    bound = largest / 254 if name == "kv_int8" else largest * 2**-10 + x.float().abs() * 2**-4
    assert ((got.float() - x.float()).abs() <= 1.01 * bound + 2 * own * x.float().abs() + largest * 2**-9).all()
    again = coder.decode(coder.encode(got), dtype)
    assert gap(again.float(), got.float()) < 5e-3


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_takes_the_bits_that_its_entry_says_and_has_a_card(name):
    entry = registry.load("cache_format", name)
    held = coder_of(name).allocate(2, 5, 7, 128, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert 8 * sum(x.nbytes for x in held) / (2 * 5 * 7 * 128) == entry.bits < 9
    coded = coder_of(name).encode(torch.randn(2, 5, 7, 128))
    assert [(x.shape, x.dtype) for x in coded] == [(x.shape, x.dtype) for x in held]
    assert entry.card.source.startswith("arXiv:") and entry.card.improves and "quality" in entry.card.costs


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mixer", CACHED)
def test_the_cache_holds_the_bytes_that_the_facts_say(mixer, name):
    decoder, plain = decoder_of(mixer, coder=coder_of(name)), decoder_of(mixer)
    state = decoder.allocate(3, 50)
    held = sum(x.untyped_storage().nbytes() for layer in state.layers for x in layer.tensors())
    said = costs.facts(decoder, 4, 16).cache_bytes_per_token
    assert held == 3 * 50 * said and state.bytes_per_token() == said
    numbers = costs.facts(plain, 1, 16).cache_bytes_per_token
    scales = 2 * 2 * 2 * {"gqa": 2, "mha": 4, "mqa": 1, "mla": 1}[mixer]  # layers, kinds, bytes, heads
    assert said == numbers + scales
    read = costs.decode_work(plain, 3, 40).moved_bytes - costs.decode_work(decoder, 3, 40).moved_bytes
    assert read == pytest.approx(3 * 41 * (4 * numbers - said))
    written = costs.prefill_work(plain, 3, 40).moved_bytes - costs.prefill_work(decoder, 3, 40).moved_bytes
    assert written == pytest.approx(3 * 40 * (4 * numbers - said))


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_a_rewound_cache_forgets_and_keeps_its_addresses(name, fixed):
    decoder = decoder_of(coder=coder_of(name))
    state = decoder.allocate(3, 48)
    if fixed:
        state.use_fixed_shapes()
    places = [x.data_ptr() for layer in state.layers for x in layer.tensors()]
    decoder(text()[:, :20], state=state)
    state.mark()
    first = [decoder(text()[:, i : i + 1], state=state) for i in range(20, 25)]
    state.rewind(20)
    for token in text(seed=1)[:, :7].split(1, 1):
        decoder(token, state=state)
    state.rewind(20)
    second = [decoder(text()[:, i : i + 1], state=state) for i in range(20, 25)]
    assert torch.equal(torch.cat(first), torch.cat(second))
    assert places == [x.data_ptr() for layer in state.layers for x in layer.tensors()]


@pytest.mark.parametrize("name", FORMATS)
def test_a_step_of_fixed_shapes_is_one_graph(name):
    decoder = decoder_of(coder=coder_of(name), num_layers=1)
    step = torch.compile(decoder.run, backend="aot_eager", fullgraph=True, dynamic=False)
    results = []
    for run in (decoder.run, step):
        state = decoder.allocate(2, 16)
        state.use_fixed_shapes()
        with torch.inference_mode():
            results.append(torch.cat([run(text(2, 1, seed), state=state) for seed in range(3)], 1))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("name", FORMATS)
def test_low_precision_reads_in_its_own_type(name):
    plain, coded = (decoder_of(dtype=torch.bfloat16, coder=coder) for coder in (None, coder_of(name)))
    got = logits(coded, text(), [20, 1, 19])
    assert got.dtype == torch.bfloat16
    assert gap(got, logits(plain, text(), [20, 1, 19])) < BOUNDS[name] + 0.02


@pytest.mark.parametrize("name", FORMATS)
def test_the_loss_of_a_text_is_the_one_that_decoding_has(name):
    decoder, tokens = decoder_of(coder=coder_of(name)), text()
    total, count = decoder.loss_sum(tokens[:, :-1], tokens[:, 1:])
    one_by_one = logits(decoder, tokens[:, :-1], [1] * 39).log_softmax(-1)
    expected = -one_by_one.gather(-1, tokens[:, 1:, None]).sum()
    assert count == 3 * 39 and total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert total.item() != pytest.approx(decoder_of().loss_sum(tokens[:, :-1], tokens[:, 1:])[0].item(), rel=1e-7)


@pytest.mark.parametrize("mixer", [name for name in catalog.names("mixer") if name not in CACHED])
def test_a_mixer_without_such_a_cache_says_why(mixer):
    with pytest.raises(Unsupported, match=r"no number format of the cache serves \w+: .{30}"):
        decoder_of(mixer, coder=coder_of(FORMATS[0]))


def test_the_group_of_int8_is_finer_than_a_head():
    coarse, fine = (load_coder(Choice(name="kv_int8", options={"group": group})) for group in (0, 8))
    x = torch.randn(2, 2, 30, 64, generator=torch.Generator().manual_seed(0))
    x[..., 3] *= 50
    assert gap(fine.decode(fine.encode(x), torch.float32), x) < 0.7 * gap(
        coarse.decode(coarse.encode(x), torch.float32), x
    )
    assert decoder_of(coder=fine).coded_bytes_per_token() > decoder_of(coder=coarse).coded_bytes_per_token()
    with pytest.raises(UserError, match="kv_int8: group 5 does not divide the 16 numbers of a head"):
        decoder_of(coder=load_coder(Choice(name="kv_int8", options={"group": 5})))


def test_wrong_choices_are_answered_in_one_line():
    with pytest.raises(UnknownNameError, match="Did you mean 'kv_int8'"):
        load_coder(Choice(name="kv_int"))
    with pytest.raises(UserError, match="unknown option 'group' of cache_format kv_fp8"):
        load_coder(Choice(name="kv_fp8", options={"group": 8}))
    with pytest.raises(UserError, match="kv_int8: group -1: give a whole number"):
        load_coder(Choice(name="kv_int8", options={"group": -1}))
    assert load_coder(None) is None


@pytest.mark.parametrize("name", FORMATS)
def test_the_native_engine_serves_through_the_format_that_is_set(name):
    settings = InferenceSettings(shape=SHAPE, cache=Choice(name=name), sequence_tokens=16)
    opened = {"folder": None, "vocab_tokens": 96, "seed": 0, "device": "cpu", "threads": 0}
    engine, plain = open_native(settings, **opened), open_native(InferenceSettings(shape=SHAPE), **opened)
    assert isinstance(engine, NativeEngine)
    assert engine.facts().cache_bytes_per_token < 0.4 * plain.facts().cache_bytes_per_token
    assert engine.score(text())[0] != plain.score(text())[0]
    made = engine.generate(text(2, 9), 5)
    decoder = build_decoder(settings, vocab_tokens=96, seed=0, device="cpu").eval()
    decoder.code_cache(coder_of(name))
    assert made.tolist() == generate(decoder, text(2, 9).tolist(), 5, ())
    with pytest.raises(Unsupported, match="no number format of the cache serves Mamba2"):
        open_native(InferenceSettings(shape=SHAPE, mixer=Choice(name="mamba2"), cache=Choice(name=name)), **opened)
