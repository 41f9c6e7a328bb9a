"""Every number format is served with the arithmetic of its own dequantised weights, at every batch, in every piece."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from efficientllm import catalog, registry
from efficientllm.engines.native import ENTRY
from efficientllm.errors import UnknownNameError, Unsupported, UserError
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.models.linear import stored_bytes
from efficientllm.models.mixers._probe import position_with
from efficientllm.precision._contract import PackedLinear, packed_bytes
from efficientllm.precision.pack import unpack
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

FORMATS = [name for name in catalog.names("precision") if not registry.load("precision", name).needs_inputs]
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SHAPE = {"num_layers": 2, "width": 128, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 256, "qkv_bias": True}
VOCAB, LENGTH = 96, 40

#: Relative error of logits, and nats of divergence, that products in a type explain.
BOUNDS = {"float32": (1e-5, 2e-6), "float16": (6e-3, 3e-5), "bfloat16": (4e-2, 1.5e-3), "float8_e4m3fn": (0.25, 0.05)}


def choice(name, **options):
    return Choice(name=name, options=options)


def settings_for(precision, mixer="gqa", shape=SHAPE, **more):
    position = Choice(name=position_with(mixer))
    slots = {"shape": shape, "mixer": Choice(name=mixer), "position": position, "sequence_tokens": 64}
    return InferenceSettings(precision=precision, **slots, **more)


def open_engine(precision, device="cpu", folder=None, **more):
    given = {"folder": folder, "vocab_tokens": VOCAB, "seed": 0, "device": device, "threads": 0}
    return ENTRY.open(settings_for(precision, **more), **given)


def lacks(name, device):
    """Why a device cannot serve a format, empty where it can."""
    try:
        registry.load("precision", name).supports(torch.device(device))
    except Unsupported as refusal:
        return str(refusal)
    return ""


def tokens(rows, length=LENGTH):
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model whose weights are rough enough to show faults."""
    settings = settings_for(None)
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    path = tmp_path_factory.mktemp("saved") / "model"
    checkpoint.save(decoder, settings, path)
    return path


def dequantised(decoder):
    """The same weights as the engine's, each as it is read, in float32 and dense layers."""
    plain = copy.deepcopy(decoder).float()
    for owner in list(plain.modules()):
        for name, part in list(owner.named_children()):
            if isinstance(part, PackedLinear):
                setattr(owner, name, unpack(part))
    return plain


def bounds(name, dtype):
    entry = registry.load("precision", name)
    worst = entry.computes_in or entry.dtype or dtype
    return max(BOUNDS[worst], BOUNDS[entry.dtype or dtype])


def check(got, expected, bound):
    error, nats = bound
    got = got.float().cpu()
    assert ((got - expected).norm() / expected.norm()).item() <= error
    target = expected.log_softmax(-1)
    assert F.kl_div(got.log_softmax(-1), target, log_target=True, reduction="none").sum(-1).max() <= nats


def ways(engine, x):
    """Teacher forcing: logits of the last tokens by prefill in one piece, in pieces, and token by token."""
    batch, length = x.shape
    engine.begin(batch, length)
    yield length - 1, engine.prefill(x)
    engine.begin(batch, length)
    yield 15, engine.prefill(x[:, :16])
    yield 28, engine.prefill(x[:, 16:29])
    for place in range(29, length):
        yield place, engine.decode(x[:, place].to(engine.device))
    engine.begin(batch, 6)
    yield 0, engine.prefill(x[:, :1])
    for place in range(1, 6):
        yield place, engine.decode(x[:, place].to(engine.device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_float32_arithmetic_on_the_same_dequantised_weights(name, dtype, device, folder):
    if reason := lacks(name, device):
        with pytest.raises(Unsupported, match=name):
            open_engine(choice(name), device, folder, dtype=dtype)
        assert device in reason or "capability" in reason
        return
    engine = open_engine(choice(name), device, folder, dtype=dtype)
    plain, bound = dequantised(engine._decoder), bounds(name, dtype)
    for batch in (1, 3):
        x = tokens(batch)
        with torch.no_grad():
            expected = plain(x.to(engine.device)).float().cpu()
        for place, logits in ways(engine, x):
            assert logits.shape == (batch, VOCAB)
            check(logits, expected[:, place], bound)
    nats, count = engine.score(tokens(3))
    with torch.no_grad():
        exact, _ = plain.loss_sum(tokens(3).to(engine.device)[:, :-1], tokens(3).to(engine.device)[:, 1:])
    assert nats / count == pytest.approx(float(exact) / count, rel=bound[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FORMATS)
def test_greedy_tokens_are_the_references_up_to_the_first_near_tie(name, device, folder):
    if lacks(name, device):
        with pytest.raises(Unsupported, match=name):
            open_engine(choice(name), device, folder)
        return
    engine = open_engine(choice(name), device, folder)
    plain, (error, _) = dequantised(engine._decoder), bounds(name, "float32")
    # An error of the logits of that relative size moves two of them apart by no more than √2 times it.
    prompt, compared = tokens(128, 9), 0
    for got, row in zip(engine.generate(prompt, 4).tolist(), prompt, strict=True):
        sequence = row[None].to(engine.device)
        for token in got:
            with torch.no_grad():
                logits = plain(sequence, last_only=True)[0, 0].float()
            first, second = logits.topk(2).values.tolist()
            if first - second <= 2 * error * logits.norm().item():
                break
            assert token == logits.argmax().item()
            compared += 1
            sequence = torch.cat((sequence, torch.tensor([[token]], device=engine.device)), 1)
    assert compared >= 5 or error > 0.1, "near ties everywhere: nothing was compared"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_layers_take_the_bits_of_their_format_and_every_byte_is_counted(name, device, folder):
    if lacks(name, device):
        with pytest.raises(Unsupported, match=name):
            open_engine(choice(name), device, folder)
        return
    engine, entry = open_engine(choice(name), device, folder, dtype="bfloat16"), registry.load("precision", name)
    decoder, facts = engine._decoder, engine.facts()
    dense = [part for part in decoder.blocks.modules() if isinstance(part, nn.Linear)]
    assert len(dense) == 8
    if entry.pack is None:
        assert decoder.dtype == getattr(torch, entry.dtype) and not packed_bytes(decoder)
        assert engine.weight_bytes == entry.bits / 8 * facts.parameters_total
    else:
        numbers = sum(part.in_features * part.out_features for part in dense)
        assert 8 * packed_bytes(decoder) / numbers == pytest.approx(entry.bits, rel=0.03)
        rest = sum(parameter.nbytes for parameter in decoder.parameters())
        assert engine.weight_bytes == rest + packed_bytes(decoder) == stored_bytes(decoder)
        assert decoder.embed.weight.dtype == decoder.norm.weight.dtype == torch.bfloat16
    full = open_engine(None, device, folder)
    assert facts.weight_bytes == engine.weight_bytes and facts.parameters_total == full.facts().parameters_total
    saved = full.decode_work(1, 0).moved_bytes - engine.decode_work(1, 0).moved_bytes
    unread = (engine.facts().cache_bytes_per_token - full.facts().cache_bytes_per_token) + (
        0 if decoder.head is None else (full._decoder.embed.weight.nbytes - decoder.embed.weight.nbytes)
    )
    assert saved == pytest.approx(full.weight_bytes - engine.weight_bytes, abs=abs(unread) + 1024)
    assert engine.decode_work(1, 9).model_flops == full.decode_work(1, 9).model_flops
    assert facts.disk_bytes == checkpoint.weight_file_bytes(folder)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in FORMATS if registry.load("precision", name).pack])
def test_a_served_layer_holds_the_matrix_once_and_reads_it_back(name, device):
    entry, bias = registry.load("precision", name), torch.randn(160).to(device)
    weight = torch.randn(160, 256, generator=torch.Generator().manual_seed(1)).to(device)
    layer = entry.pack(weight, nn.Parameter(bias))
    if reason := lacks(name, device):
        with pytest.raises(Unsupported) as refusal:
            layer.served()
        assert str(refusal.value) == reason
        return
    served = layer.served()
    assert torch.equal(served.weight, layer.weight) and served.packed_bytes() <= 1.01 * layer.packed_bytes()
    assert torch.equal(copy.deepcopy(served).bfloat16().float().weight, layer.weight), "a cast has changed what is held"
    assert served.flops_per_token() == 2 * 160 * 256
    for rows in (1, 13, 200):
        x = torch.randn(2, rows, 256).to(device)
        expected = F.linear(x, layer.weight, bias)
        bound = BOUNDS[entry.computes_in or "float32"][0] / 4
        assert ((served(x) - expected).norm() / expected.norm()).item() <= bound
        torch.testing.assert_close(served.product(x, slice(24, 57)), served(x)[..., 24:57], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mixer", catalog.names("mixer"))
def test_every_mixer_serves_packed_layers(mixer):
    engine = open_engine(choice("int8"), mixer=mixer)
    plain, x = dequantised(engine._decoder), tokens(2, 24)
    engine.begin(2, 24)
    got = [engine.prefill(x[:, :21]).clone(), *(engine.decode(x[:, place]).clone() for place in (21, 22, 23))]
    with torch.no_grad():
        expected = plain(x)[:, 20:]
    check(torch.stack(got, 1), expected, BOUNDS["bfloat16"])
    assert engine.decode_work(1, 9).model_flops == open_engine(None, mixer=mixer).decode_work(1, 9).model_flops


def test_random_weights_are_the_same_in_every_format():
    exact = open_engine(None)._decoder
    packed = dequantised(open_engine(choice("int8"))._decoder)
    for (name, a), b in zip(exact.named_parameters(), packed.parameters(), strict=True):
        assert (a - b).norm() <= 0.01 * a.norm(), name


def test_wrong_formats_and_options_are_one_line_before_anything_is_measured():
    with pytest.raises(UnknownNameError, match="Did you mean 'int8'"):
        open_engine(choice("int88"))
    with pytest.raises(UserError, match="unknown option 'groups' of precision int4"):
        open_engine(choice("int4", groups=64))
    narrow = SHAPE | {"width": 64, "mlp_width": 96}
    with pytest.raises(
        Unsupported, match=r"int4, blocks\.0\.mixer\.qkv: groups of 128 .* 64 inputs.* choose from 32, 64"
    ):
        open_engine(choice("int4"), shape=narrow)
    with pytest.raises(Unsupported, match=r"blocks\.0\.mlp\.down: groups of 64 .* 96 inputs.* choose from 32$"):
        open_engine(choice("int4", group=64), shape=narrow)
    with pytest.raises(Unsupported, match=r"the experts of mlp\.gate_up are one tensor"):
        open_engine(choice("int8"), mlp=Choice(name="moe"))


@pytest.mark.prove
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_compiled_engine_serves_packed_layers(name, device, folder):
    if lacks(name, device):
        with pytest.raises(Unsupported, match=name):
            open_engine(choice(name), device, folder, compile=True)
        return
    engine, x = open_engine(choice(name), device, folder, compile=True), tokens(2)
    with torch.no_grad():
        expected = dequantised(engine._decoder)(x.to(engine.device)).float().cpu()
    engine.begin(2, LENGTH)
    check(engine.prefill(x[:, :36]), expected[:, 35], bounds(name, "float32"))
    for place in (36, 37, 38):
        check(engine.decode(x[:, place].to(engine.device)), expected[:, place], bounds(name, "float32"))
