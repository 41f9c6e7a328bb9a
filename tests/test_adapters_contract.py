"""Every fine-tuning method of the folder trains what it says, saves it, reads it back and merges it."""

import json
from dataclasses import replace

import msgspec
import pytest
import torch
from tests.adapted import ADAPTERS, METHODS, attached, decoder_of, distance, logits, train
from typer.testing import CliRunner

from efficientllm import registry
from efficientllm.adapters import _checks
from efficientllm.adapters._checks import CHECKS, CLOSE
from efficientllm.cli.main import build_app
from efficientllm.precision._contract import PackedLinear

FAST = ("dora", "loha", "lokr", "lora", "lora_plus", "pissa", "rslora")


@pytest.mark.parametrize("what", CHECKS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes_every_check(name, what):
    CHECKS[what](registry.load("method", name))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_folder_serves_every_model_and_names_its_paper(name):
    entry = registry.load("method", name)
    assert [model for model, _, _ in _checks.served(entry)] == [*_checks.MODELS]
    assert entry.card.source.startswith("arXiv:") and entry.card.improves


def faulty(fault, name="lora"):
    """Return a method that is broken once it is attached."""
    entry = registry.load("method", name)

    def attach(decoder, **options):
        method = entry.attach(decoder, **options)
        fault(method)
        return method

    return replace(entry, attach=attach)


def starts_elsewhere(method):
    for parameter in method.trained().values():
        torch.nn.init.normal_(parameter)


def draws_from_nowhere(method):
    for key, parameter in method.trained().items():
        if ".lora_A." in key:
            parameter.data.normal_(generator=torch.Generator().manual_seed(id(method)))


def has_a_dead_parameter(method):
    method.decoder.register_parameter("idle", torch.nn.Parameter(torch.zeros(2)))


def moves_what_is_frozen(method):
    norm = next(p for key, p in method.decoder.named_parameters() if "norm" in key)

    def shrink(*_):
        norm.data.mul_(0.999)

    method.decoder.register_forward_pre_hook(shrink)


def forgets_what_it_reads(method):
    method.load = lambda folder: None


def loses_itself_in_merging(method):
    def merge():
        for layer in method.layers:
            layer.leave()
        method.decoder.requires_grad_(False)

    method.merge = merge


def stays_after_merging(method):
    method.merge = lambda: method.decoder.requires_grad_(False)


def answers_in_float32(method):
    method.decoder.register_forward_hook(lambda module, given, out: out.float())


FULL = registry.load("method", "full")
FAULTS = [
    (replace(FULL, attach=lambda decoder, blocks: None), "card and options", "'blocks' has no default"),
    (replace(FULL, card=msgspec.structs.replace(FULL.card, improves=("speed",))), "card and options", "'speed'"),
    (faulty(starts_elsewhere), "begins at the model", "before the first step"),
    (faulty(draws_from_nowhere), "begins at the model", "same seed"),
    (faulty(has_a_dead_parameter), "trains, and only what it says", "idle gets no finite gradient"),
    (faulty(moves_what_is_frozen), "trains, and only what it says", "though it is not trained"),
    (faulty(forgets_what_it_reads), "saved and read it is the same", "read back, it differs"),
    (faulty(loses_itself_in_merging), "merged equals unmerged", "merged and unmerged differ"),
    (faulty(stays_after_merging), "merged equals unmerged", "is no plain layer"),
    (faulty(answers_in_float32), "number formats", "logits are torch.float32"),
    (replace(FULL, over_packed=""), "over a packed base", "over_packed does not say so"),
]


@pytest.mark.parametrize(("broken", "what", "says"), FAULTS)
def test_a_fault_is_found_by_its_check(broken, what, says):
    with pytest.raises(AssertionError, match=says):
        CHECKS[what](broken)


def test_every_check_has_a_fault_that_it_finds():
    assert {what for _, what, _ in FAULTS} == set(CHECKS)


#: A method of a user's own, over the contract alone: each block's norms are trained.
OWN = '''"""Norms alone are trained."""
from efficientllm.adapters._contract import MethodEntry
from efficientllm.adapters._whole import WholeWeights
from efficientllm.records.card import Card

def attach(decoder):
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_({kept})
    return WholeWeights(decoder)

ENTRY = MethodEntry(
    card=Card(title="Norms", source="own"), attach=attach, over_packed="it trains the weights themselves"
)
'''


def test_the_command_checks_a_users_own_method_and_finds_its_fault(tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(OWN.format(kept="'norm' in name"))
    bad.write_text(OWN.format(kept="False"))
    done = CliRunner().invoke(build_app(), ["check", str(good)])
    assert done.exit_code == 0 and done.output.count("✓") == len(CHECKS), done.output
    done = CliRunner().invoke(build_app(), ["check", str(bad)])
    assert done.exit_code == 1
    assert "✗ trains, and only what it says: on qwen nothing is trained" in done.output


def test_the_command_checks_an_adapters_configuration_by_file_and_folder(tmp_path):
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "adapter_config.json"):
        done = CliRunner().invoke(build_app(), ["check", str(path)])
        assert done.exit_code == 0 and done.output.count("✓") == len(CHECKS), done.output
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 4000}))
    done = CliRunner().invoke(build_app(), ["check", str(tmp_path)])
    assert done.exit_code == 1 and "rank 4000 is larger than" in done.output


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_leaves_the_decoders_own_weights_alone(name):
    plain = dict(decoder_of().named_parameters())
    decoder = decoder_of()
    method = attached(decoder, name)
    own = {key.replace(".base.", "."): p for key, p in decoder.named_parameters() if ".parts." not in key}
    assert own.keys() == plain.keys()
    changed = {key for key, p in own.items() if not torch.equal(p, plain[key])}
    taken_out = {key for key in plain if key.startswith("blocks.") and plain[key].dim() == 2}
    assert changed == (taken_out if name == "pissa" else set())
    assert all(".parts." in key for key in method.trained())


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_smaller_than_the_model_and_float32_over_bfloat16(name):
    decoder = decoder_of(dtype=torch.bfloat16)
    size = sum(p.numel() for p in decoder.parameters())
    method = attached(decoder, name)
    assert sum(p.numel() for p in method.trained().values()) < size / 2
    assert {p.dtype for p in method.trained().values()} == {torch.float32}
    assert logits(decoder).dtype == torch.bfloat16


@pytest.mark.parametrize("name", FAST)
def test_the_fast_form_gives_the_results_and_gradients_of_peft(name):
    def results(fast):
        decoder = decoder_of()
        method = attached(decoder, name)
        generator = torch.Generator().manual_seed(6)
        with torch.no_grad():
            for parameter in method.trained().values():  # B begins at zero, and would hide A
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for layer in method.layers:
            layer.fast = layer.fast if fast else None
        out = decoder(torch.arange(40).view(2, 20))
        (out.square().mean() * 10).backward()
        return [out.detach(), *(p.grad for p in method.trained().values())]

    for found, wanted in zip(results(fast=True), results(fast=False), strict=True):
        assert distance(found, wanted) < CLOSE


def test_lora_has_a_fast_form_in_every_layer():
    method = attached(decoder_of(), "lora")
    assert method.layers and all(layer.fast is not None for layer in method.layers)
    dropping = attached(decoder_of(), "lora", rank=8, dropout=0.5)
    assert len(dropping.layers) == len(method.layers)


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name not in ("ia3", "oft")])
def test_dropout_is_for_training_alone(name):
    options = {"rank": 8, "dropout": 0.5}
    decoder = decoder_of()
    method = attached(decoder, name, **options)
    train(method, steps=2)
    assert torch.equal(logits(decoder), logits(decoder))
    decoder.train()
    torch.manual_seed(0)
    assert distance(logits(decoder), logits(decoder)) > CLOSE


@pytest.mark.parametrize("name", ADAPTERS)
def test_only_the_targets_are_adapted(name):
    options = {"targets": "q_proj down_proj"} if name == "ia3" else {"targets": "q_proj down_proj", "rank": 8}
    decoder = decoder_of()
    method = attached(decoder, name, **options)
    places = {key.partition(".parts")[0].partition(".")[2] for key in method.trained()}
    assert len(places) == 4 and {place.partition(".")[0] for place in places} == {"0", "1"}
    train(method, steps=2)
    trained = logits(decoder)
    method.merge()
    assert distance(logits(decoder), trained) < CLOSE


def test_a_merge_over_a_packed_base_gives_a_plain_one():
    class Halved(PackedLinear):
        """A matrix held in half its bits."""

        def __init__(self, layer):
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
            self.register_buffer("packed", layer.weight.detach().half())

        @property
        def weight(self):
            return self.packed.float()

        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight, self.bias)

    decoder = decoder_of()
    method = attached(decoder, "lora")
    for layer in method.layers:
        layer.base = Halved(layer.base)
    losses = train(method)
    trained = logits(decoder)
    assert losses[-1] < losses[0]
    method.merge()
    assert distance(logits(decoder), trained) < CLOSE
    plain = {key: type(module) for key, module in decoder_of().named_modules()}
    assert {key: type(module) for key, module in decoder.named_modules()} == plain


def test_freezing_trains_the_last_blocks_alone():
    method = attached(decoder_of(), "freeze", blocks=1)
    assert {key.split(".")[1] for key in method.trained()} == {"1"}
