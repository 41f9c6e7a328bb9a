"""Every format of the folder holds what it says in the bits that it says, and serves as a frozen layer under adapters."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from efficientllm import catalog, registry
from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.adapters.attach import attach
from efficientllm.errors import UnknownNameError, Unsupported, UserError
from efficientllm.models.build import build_decoder
from efficientllm.models.costs import facts, train_work
from efficientllm.models.linear import num_parameters, stored_bytes
from efficientllm.precision._contract import PackedLinear, packed_bytes
from efficientllm.precision.pack import load_precision, pack_frozen, unpack
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings

ALL = catalog.names("precision")
FORMATS = [name for name in ALL if registry.load("precision", name).pack is not None]
PLAIN = [name for name in ALL if name not in FORMATS]
KINDS = {"float32": (torch.float32, False), "autocast": (torch.float32, True), "bfloat16": (torch.bfloat16, False)}
SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96, "qkv_bias": True}


def matrix(rows=96, columns=160, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator).to(dtype)


def packed(name, weight=None, bias=None):
    return registry.load("precision", name).pack(matrix() if weight is None else weight, bias)


def run(layer, x, autocast=False):
    """Result and gradients of what goes in and of the bias, for a pull that differs from place to place."""
    x = x.clone().requires_grad_()
    bias = layer.bias.requires_grad_()
    bias.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
    return y.detach(), x.grad, bias.grad


def kept_by(call, *given):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        call(*given)
    return kept


def decoder_of(**more):
    settings = FinetuneSettings(shape=SMALL, sequence_tokens=16, **more)
    return settings, build_decoder(settings, vocab_tokens=96, seed=0, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_a_matrix_takes_the_bits_that_the_entry_says(name):
    entry = registry.load("precision", name)
    for dtype in (torch.float32, torch.bfloat16):
        layer = entry.pack(matrix(512, 384, dtype), None)
        assert 8 * layer.packed_bytes() / (512 * 384) == pytest.approx(entry.bits, rel=0.02)
        assert not list(layer.parameters()) and layer.weight.dtype == dtype and layer.weight.shape == (512, 384)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_format_packs_nothing_and_names_its_type(name):
    entry = registry.load("precision", name)
    assert entry.bits == 8 * getattr(torch, entry.dtype).itemsize and not entry.computes_in and not entry.needs_inputs
    with pytest.raises(UserError, match=f"{name} packs nothing"):
        pack_frozen([(nn.Sequential(nn.Linear(4, 4)), "0")], Choice(name=name))


@pytest.mark.parametrize("name", ALL)
def test_a_formats_card_has_title_source_and_claim(name):
    card = registry.load("precision", name).card
    words = {"memory", "compute", "latency", "throughput", "energy", "compression", "quality"}
    assert card.title and card.source.startswith(("arXiv:", "https://")) and (card.improves or name == "fp32")
    assert set(card.improves) | set(card.costs) <= words


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_results_and_gradients_are_those_of_a_dense_layer_of_the_matrix_that_is_read(name, kind):
    dtype, autocast = KINDS[kind]
    layer = packed(name, matrix(dtype=dtype), matrix(1, 96, dtype, seed=1)[0])
    dense = nn.Linear(160, 96)
    dense.weight, dense.bias = nn.Parameter(layer.weight.clone()), nn.Parameter(layer.bias.detach().clone())
    for shape in ((2, 5, 160), (1, 160)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        for got, expected in zip(run(layer, x, autocast), run(dense, x, autocast), strict=True):
            assert got.dtype == expected.dtype
            bound = 1e-5 if kind == "float32" else 1e-2
            torch.testing.assert_close(got, expected, rtol=bound, atol=bound * expected.abs().max().item())
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            some = layer.product(x, slice(24, 57))
            torch.testing.assert_close(some, layer(x)[..., 24:57], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_of_the_matrix_but_its_codes_is_kept_for_the_backward_pass(name, autocast):
    layer, x = packed(name), torch.randn(2, 5, 160, requires_grad=True)
    for call in (layer, lambda x: layer.product(x, slice(0, 90))):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            kept = kept_by(call, x)
        assert kept and sum(t.nbytes for t in kept) <= layer.packed_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_compiled_layer_is_one_graph_with_the_same_results_and_keeps_no_more(name):
    layer, x = packed(name, None, torch.zeros(96)), torch.randn(2, 5, 160)
    model = nn.Sequential(layer, nn.SiLU(), packed(name, matrix(64, 96, seed=3)))
    model.bias = layer.bias
    compiled = torch.compile(model, backend="aot_eager_decomp_partition", fullgraph=True)
    compiled.bias = layer.bias
    for autocast in (False, True):
        kept = kept_by(lambda: run(compiled, x, autocast))  # noqa: B023 # called at once
        assert packed_bytes(model) <= sum(t.nbytes for t in kept) < packed_bytes(model) + 4 * 64 * 96
        assert not [t for t in kept if t.is_floating_point() and t.numel() >= 64 * 96]
        for got, expected in zip(run(compiled, x, autocast), run(model, x, autocast), strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", FORMATS)
def test_recomputing_changes_nothing(name):
    layer, x = packed(name, None, torch.zeros(96)), torch.randn(2, 5, 160)
    expected = run(layer, x)
    given = x.clone().requires_grad_()
    y = checkpoint(layer, given, use_reentrant=False)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
    assert torch.equal(y, expected[0]) and torch.equal(given.grad, expected[1])


@pytest.mark.parametrize("name", FORMATS)
def test_copies_casts_and_saved_states_keep_the_matrix(name):
    layer = packed(name, bias=torch.ones(96))
    weight, held = layer.weight, layer.packed_bytes()
    other = packed(name, matrix(seed=9), torch.zeros(96))
    other.load_state_dict(layer.state_dict())
    low = copy.deepcopy(layer).to(torch.bfloat16)
    assert torch.equal(other.weight, weight) and torch.equal(copy.deepcopy(layer).weight, weight)
    assert torch.equal(low.weight, weight.bfloat16()) and low.bias.dtype == torch.bfloat16
    assert torch.equal(low.float().weight, weight), "a cast to bfloat16 and back has rounded what is held"
    assert held == low.packed_bytes() == other.packed_bytes()
    assert copy.deepcopy(layer).to("meta").weight.shape == (96, 160)
    plain = unpack(layer)
    assert type(plain) is nn.Linear and torch.equal(plain.weight, weight) and plain.bias is layer.bias
    x = torch.randn(3, 160)
    torch.testing.assert_close(plain(x), layer(x))


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (37, 111), (1, 129), (64, 64)])
@pytest.mark.parametrize("name", FORMATS)
def test_matrices_of_any_shape_are_held(name, shape):
    weight = matrix(*shape)
    layer = packed(name, weight)
    assert (layer.weight - weight).norm() <= 0.15 * weight.norm()
    assert layer(torch.randn(2, shape[1])).shape == (2, shape[0])


@pytest.mark.parametrize("name", FORMATS)
def test_hard_numbers_stay_finite_and_zeros_stay_zeros(name):
    zeros, constant = torch.zeros(64, 128), torch.full((64, 128), -0.37)
    assert packed(name, zeros).weight.abs().max() == 0
    torch.testing.assert_close(packed(name, constant).weight, constant, rtol=5e-3, atol=0)
    hard = matrix(64, 512)
    hard[3], hard[4, 7], hard[5], hard[60] = 0.0, 1e4, 1e-30, hard[60] * 1e-3
    got = packed(name, hard).weight
    assert got.isfinite().all() and got[3].abs().max() == 0
    assert got[4, 7] == pytest.approx(1e4, rel=5e-3)
    assert (got[6:60] - hard[6:60]).norm() <= 0.12 * hard[6:60].norm(), "an outlier spoils the rows that follow"


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_cannot_do_is_said_in_one_line(name):
    broken = matrix()
    broken[2, 3] = torch.inf
    with pytest.raises(UserError, match=r"\(96, 160\) has NaN or infinity"):
        packed(name, broken)
    with pytest.raises(UserError, match=f"unknown option 'bloc' of precision {name}"):
        load_precision(Choice(name=name, options={"bloc": 64}))


def test_an_unknown_format_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'nf4'"):
        load_precision(Choice(name="nf"))


@pytest.mark.parametrize("name", FORMATS)
def test_lora_over_the_format_trains_and_leaves_the_base_alone(name):
    settings, decoder = decoder_of(base_precision=Choice(name=name))
    full_bytes, numbers = stored_bytes(decoder), num_parameters(decoder)
    dense = sum(layer.weight.nbytes for layer in decoder.blocks.modules() if isinstance(layer, nn.Linear))
    attached = attach(decoder, settings, seed=0)
    trained = list(attached.trained().values())
    layers = [layer for layer in decoder.modules() if isinstance(layer, PackedLinear)]
    assert len(layers) == 8 and all(isinstance(layer.base, PackedLinear) for layer in adapted(decoder))
    adapters = sum(p.numel() for p in trained)
    assert num_parameters(decoder) == numbers + adapters
    assert stored_bytes(decoder) == full_bytes - dense + packed_bytes(decoder) + 4 * adapters
    assert facts(decoder, 4, 16).weight_bytes == stored_bytes(decoder)
    assert train_work(decoder, 1, 16).moved_bytes < 6 * 4 * adapters + full_bytes + 4 * 4 * adapters
    before = [buffer.clone() for layer in layers for buffer in layer.buffers()]
    losses = losses_of(decoder, trained)
    after = [buffer for layer in layers for buffer in layer.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert losses[-1] < 0.8 * losses[0]
    settings, dense_decoder = decoder_of()
    dense_attached = attach(dense_decoder, settings, seed=0)
    for layer, like in zip(adapted(dense_decoder), adapted(decoder), strict=True):
        layer.base = unpack(like.base)
    assert losses == pytest.approx(losses_of(dense_decoder, dense_attached.trained().values()), rel=2e-3)


def losses_of(decoder, trained):
    tokens = torch.randint(96, (4, 17), generator=torch.Generator().manual_seed(0))
    optimizer, losses = torch.optim.AdamW(trained, lr=6e-3), []
    for _ in range(25):
        loss = F.cross_entropy(decoder(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def adapted(decoder):
    return [layer for layer in decoder.modules() if isinstance(layer, AdaptedLinear)]


@pytest.mark.parametrize("name", FORMATS)
def test_the_matrices_are_gone_once_they_are_packed(name):
    settings, decoder = decoder_of(base_precision=Choice(name=name))
    linear = [layer for layer in decoder.blocks.modules() if isinstance(layer, nn.Linear)]
    notes = [layer.writes_residual for layer in linear]
    matrices = [weakref.ref(layer.weight) for layer in linear]
    del linear
    attach(decoder, settings, seed=0)
    gc.collect()
    assert matrices and not [ref for ref in matrices if ref() is not None]
    assert [layer.base.writes_residual for layer in adapted(decoder)] == notes


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_a_method_that_trains_the_weights_themselves_is_refused_over_a_packed_base(method):
    settings, decoder = decoder_of(method=Choice(name=method), base_precision=Choice(name=FORMATS[0]))
    with pytest.raises(Unsupported, match=f"{method} over a base of {FORMATS[0]}: it trains the weights themselves"):
        attach(decoder, settings, seed=0)


OWN = '''"""Every number once, in a byte."""
import torch
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.records.card import Card

class Bytes(PackedLinear):
    def __init__(self, weight, bias):
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.register_parameter("bias", bias)
        self.scale = weight.abs().max().item() / 127
        self.register_buffer("codes", (weight / self.scale).round().to(torch.int8))

    @property
    def weight(self):
        return self.codes * self.scale

    def product(self, x, rows=slice(None)):
        return torch.nn.functional.linear(x, self.weight[rows], None if self.bias is None else self.bias[rows])

ENTRY = PrecisionEntry(card=Card(title="bytes", source="own"), pack=lambda weight, bias: Bytes(weight.detach(), bias), bits=8)
'''


def test_a_format_of_ones_own_serves_by_its_path(tmp_path):
    own, other = tmp_path / "my.py", tmp_path / "other.py"
    own.write_text(OWN)
    other.write_text("ENTRY = 3\n")
    settings, decoder = decoder_of(base_precision=Choice(name="my", path=str(own)))
    attach(decoder, settings, seed=0)
    assert {type(layer.base).__name__ for layer in adapted(decoder)} == {"Bytes"}
    assert decoder(torch.arange(8)[None]).isfinite().all()
    with pytest.raises(UserError, match=r"other\.py is a int, not a PrecisionEntry"):
        load_precision(Choice(name="other", path=str(other)))


def test_packed_layers_are_not_packed_again():
    holder = nn.Sequential(nn.Linear(64, 64))
    assert [pack_frozen([(holder, "0")], Choice(name=FORMATS[0])) for _ in range(2)] == [1, 0]
