"""Every format of the folder holds what it says in the bits that it says, and serves as a frozen layer under adapters."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from efficientllm import catalog, registry
from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.adapters.attach import attach
from efficientllm.checking import run_checks
from efficientllm.cli.main import build_app
from efficientllm.errors import UnknownNameError, Unsupported, UserError
from efficientllm.models.build import build_decoder
from efficientllm.models.costs import facts, train_work
from efficientllm.models.linear import num_parameters, stored_bytes
from efficientllm.precision._checks import CHECKS, check, matrix, pack
from efficientllm.precision._contract import PackedLinear, packed_bytes
from efficientllm.precision.pack import load_precision, pack_frozen, unpack
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings

ENTRIES = {name: registry.load("precision", name) for name in catalog.names("precision")}
PACKED = [name for name, entry in ENTRIES.items() if entry.pack]
#: Those that serve under adapters.
FORMATS = [name for name in PACKED if not ENTRIES[name].needs_inputs]
SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96, "qkv_bias": True}


def decoder_of(**more):
    settings = FinetuneSettings(shape=SMALL, sequence_tokens=16, **more)
    return settings, build_decoder(settings, vocab_tokens=96, seed=0, device="cpu", dtype=torch.float32)


def packed(name, weight=None):
    return pack(registry.load("precision", name), weight)


@pytest.mark.parametrize("what", CHECKS)
@pytest.mark.parametrize("name", PACKED)
def test_every_format_passes_every_check(name, what):
    CHECKS[what](registry.load("precision", name))


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - PACKED))
def test_of_a_format_that_packs_nothing_its_card_is_checked(name):
    assert check(ENTRIES[name]) == [("card and options", None)]


INT4 = registry.load("precision", "int4")


def faulty(fault):
    """Return a format whose layer is broken once it is packed."""

    def pack(weight, bias):
        layer = INT4.pack(weight, bias)
        layer.product = fault(layer, layer.product)
        return layer

    return replace(INT4, pack=pack)


def keeps_the_matrix(layer, product):
    def plain(x, rows=slice(None)):
        return F.linear(x, layer.weight[rows], None if layer.bias is None else layer.bias[rows])

    return plain


def breaks_the_graph(layer, product):
    def broken(x, rows=slice(None)):
        torch._dynamo.graph_break()
        return product(x, rows)

    return broken


def differs_each_time(layer, product):
    calls = []

    def changing(x, rows=slice(None)):
        calls.append(x)
        return product(x * len(calls), rows)

    return changing


def holds_floats(weight, bias):
    layer = INT4.pack(weight, bias)
    layer.register_buffer("fine", torch.tensor(1.0001))
    made = type(layer).weight.fget
    layer.__class__ = type("Fine", (type(layer),), {"weight": property(lambda self: made(self) * self.fine)})
    return layer


FAULTS = [
    (replace(INT4, pack=lambda weight, bias, group: None), "card and options", "'group' has no default"),
    (replace(INT4, bits=3), "bits as it says", "a number takes 4.25 bits, bits says 3"),
    (replace(INT4, pack=lambda weight, bias: INT4.pack(weight.roll(1, 1), bias)), "any shape", "is lost"),
    (
        replace(INT4, pack=lambda w, bias: INT4.pack(w.nan_to_num(), bias)),
        "hard numbers",
        "a matrix with nan gives no error",
    ),
    (
        faulty(lambda layer, f: lambda x, rows=slice(None): f(1.01 * x, rows)),
        "results and gradients are a dense layer's",
        "float32",
    ),
    (faulty(keeps_the_matrix), "keeps no matrix for the backward pass", "bytes are kept, of"),
    (faulty(breaks_the_graph), "compiles into one graph", "graph"),
    (faulty(differs_each_time), "recomputes", "recomputed"),
    (replace(INT4, pack=holds_floats), "copies, casts and moves", "cast to bfloat16"),
]


@pytest.mark.parametrize(("broken", "what", "says"), FAULTS)
def test_a_fault_is_found_by_its_check(broken, what, says):
    ((_, error),) = run_checks({what: CHECKS[what]}, broken)
    assert error is not None and says in error


def test_every_check_has_a_fault_that_it_finds():
    assert {what for _, what, _ in FAULTS} == set(CHECKS)


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - PACKED))
def test_a_plain_format_packs_nothing_and_names_its_type(name):
    entry = registry.load("precision", name)
    assert entry.bits == 8 * getattr(torch, entry.dtype).itemsize and not entry.computes_in and not entry.needs_inputs
    with pytest.raises(UserError, match=f"{name} packs nothing"):
        pack_frozen([(nn.Sequential(nn.Linear(4, 4)), "0")], Choice(name=name))


@pytest.mark.parametrize("name", ENTRIES)
def test_a_formats_card_has_title_source_and_claim(name):
    card = registry.load("precision", name).card
    words = {"memory", "compute", "latency", "throughput", "energy", "compression", "quality"}
    assert card.title and card.source.startswith(("arXiv:", "https://")) and (card.improves or name == "fp32")
    assert set(card.improves) | set(card.costs) <= words


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
from efficientllm.precision._checks import CHECKS, matrix, pack
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


#: Sixteen values of one's own, in the blocks that are there.
BLOCKS = '''"""Four bits with an exponent of two and a mantissa of one, a scale for each block of 32."""
import torch
from efficientllm.precision._blocks import Blocks, cut, join_codes
from efficientllm.precision._contract import PrecisionEntry
from efficientllm.precision._layer import pack_blocks
from efficientllm.records.card import Card

VALUES = torch.tensor([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0, 0.5, 1, 1.5, 2, 3, 4, 6])

def code(flat):
    numbers = cut(flat, 32)
    scales = numbers.abs().amax(1) / 6
    shares = numbers / torch.where(scales == 0, 1.0, scales)[:, None]
    codes = torch.bucketize(shares, (VALUES[1:] + VALUES[:-1]) / 2)
    return Blocks(join_codes(codes.flatten()), VALUES, scales)

ENTRY = PrecisionEntry(
    card=Card(title="fp4", source="own", improves=("memory",), costs=("quality",)),
    pack=lambda weight, bias: pack_blocks(weight, bias, 32, code, "fp4: block"),
    bits=5,
)
'''


def test_the_command_checks_a_users_own_format_and_finds_its_fault(tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(BLOCKS)
    bad.write_text(OWN)
    done = CliRunner().invoke(build_app(), ["check", str(good)])
    assert done.exit_code == 0 and done.output.count("✓") == len(CHECKS), done.output
    done = CliRunner().invoke(build_app(), ["check", str(bad)])
    assert done.exit_code == 1
    assert "✓ recomputes" in done.output and "✗ copies, casts and moves: a saved state" in done.output


def test_packed_layers_are_not_packed_again():
    holder = nn.Sequential(nn.Linear(64, 64))
    assert [pack_frozen([(holder, "0")], Choice(name=FORMATS[0])) for _ in range(2)] == [1, 0]
