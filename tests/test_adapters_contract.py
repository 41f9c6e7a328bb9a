"""Every fine-tuning method of the folder trains what it says, saves it, reads it back and merges it."""

import pytest
import torch
from tests.adapted import ADAPTERS, METHODS, MODELS, attached, decoder_of, distance, logits, train

from efficientllm import registry
from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.models import checkpoint
from efficientllm.precision._contract import PackedLinear

#: The smallest difference that counts: what sums in another order may leave.
CLOSE = 1e-5
#: How many of a model's layers each method can be tried on in the time there is.
EACH = [(name, model) for name in METHODS for model in MODELS if model != "llama"]
FAST = ("dora", "loha", "lokr", "lora", "lora_plus", "pissa", "rslora")


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_card_has_title_source_and_claim(name):
    card = registry.load("method", name).card
    assert card.title and card.source.startswith("arXiv:") and card.improves
    assert set(card.improves) | set(card.costs) <= {
        "memory", "compute", "latency", "throughput", "energy", "compression", "quality"
    }  # fmt: skip


@pytest.mark.parametrize(("name", "model"), EACH)
def test_a_method_begins_at_the_model_learns_saves_reads_and_merges(name, model, tmp_path):
    decoder = decoder_of(model)
    begun = logits(decoder)
    method = attached(decoder, name)
    assert distance(logits(decoder), begun) < CLOSE
    frozen = {key: p.detach().clone() for key, p in decoder.named_parameters() if not p.requires_grad}
    losses = train(method)
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.trained().values())
    assert all(torch.equal(p, frozen[key]) for key, p in decoder.named_parameters() if key in frozen)
    trained = logits(decoder)
    assert distance(trained, begun) > 10 * CLOSE
    method.save(tmp_path / "adapter")

    other = decoder_of(model)
    types = {key: type(module) for key, module in other.named_modules()}
    again = attached(other, name, seed=4)
    again.load(tmp_path / "adapter")
    assert distance(logits(other), trained) < CLOSE
    assert again.trained().keys() == method.trained().keys()

    again.merge()
    assert distance(logits(other), trained) < CLOSE
    assert {key: type(module) for key, module in other.named_modules()} == types
    assert not any(p.requires_grad for p in other.parameters())
    checkpoint.save(other, MODELS[model], tmp_path / "merged")
    assert distance(logits(checkpoint.load(tmp_path / "merged").eval()), trained) < CLOSE


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_learns_under_autocast_over_either_type_of_base(name, dtype):
    decoder = decoder_of(dtype=dtype).train()
    method = attached(decoder, name)
    losses = train(method, autocast=True)
    assert losses[-1] < losses[0]
    assert {p.grad.dtype for p in method.trained().values()} == {torch.float32}


def test_freezing_trains_the_last_blocks_alone():
    method = attached(decoder_of(), "freeze", blocks=1)
    assert {key.split(".")[1] for key in method.trained()} == {"1"}


def test_merging_twice_is_merging_once():
    decoder = decoder_of()
    method = attached(decoder, "lora")
    train(method)
    method.merge()
    merged = logits(decoder)
    method.merge()
    assert torch.equal(logits(decoder), merged) and not any(isinstance(m, AdaptedLinear) for m in decoder.modules())
