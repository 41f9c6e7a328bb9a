"""The fast forms of adapters: held to the layers of the peft library, results and gradients."""

import peft
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientllm.adapters import freeze
from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.adapters._peft import attach_peft
from efficientllm.models import costs
from efficientllm.models.build import build_decoder
from efficientllm.models.cross_entropy import mean_cross_entropy
from efficientllm.records.model_settings import ModelSettings

CONFIGS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "dora": {"use_dora": True},
    "lora on some": {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]},
    "dora on some": {"target_modules": ["k_proj", "up_proj", "down_proj"], "use_dora": True},
}


def build(num_layers=2, dtype=torch.float32, **shape):
    settings = ModelSettings(size="tiny", shape={"num_layers": num_layers, **shape})
    return build_decoder(settings, vocab_tokens=64, seed=0, device="cpu", dtype=dtype)


def adapted(kind="lora", dtype=torch.float32, dropout=0.0, num_layers=2, **shape):
    decoder = build(num_layers, dtype, **shape)
    torch.manual_seed(1)
    options = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "lora_dropout": dropout, **CONFIGS[kind]}
    attach_peft(decoder, peft.LoraConfig(**options))
    for name, parameter in decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        if "magnitude" in name:
            parameter.data.mul_(1.3)
    return decoder.train()


def layers(decoder):
    return [layer for layer in decoder.modules() if isinstance(layer, AdaptedLinear)]


def by_peft(decoder):
    for layer in layers(decoder):
        layer.fast = None


def stepped(decoder, autocast=False):
    decoder.zero_grad()
    tokens = torch.arange(22).view(2, 11)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = decoder.loss(tokens, tokens + 1)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in decoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("kind", "bias"), [*((kind, False) for kind in CONFIGS), ("lora", True), ("dora", True)])
def test_a_fast_form_gives_the_results_and_gradients_of_peft(kind, bias):
    decoder = adapted(kind, **({"qkv_bias": True, "mlp_bias": True} if bias else {}))
    for layer in layers(decoder):
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
    assert any(layer.fast for layer in layers(decoder))
    loss, gradients = stepped(decoder)
    by_peft(decoder)
    expected, theirs = stepped(decoder)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == theirs.keys()
    for name, gradient in gradients.items():
        assert (gradient - theirs[name]).norm() <= 1e-4 * theirs[name].norm(), name


@pytest.mark.parametrize(("kind", "dtype"), [("lora", "weights"), ("dora", "weights"), ("lora", "autocast")])
def test_in_bfloat16_a_fast_form_is_as_near_as_rounding_lets_it(kind, dtype):
    decoder = adapted(kind, torch.bfloat16 if dtype == "weights" else torch.float32)
    assert all(p.dtype == torch.float32 for p in decoder.parameters() if p.requires_grad)
    loss, gradients = stepped(decoder, dtype == "autocast")
    by_peft(decoder)
    expected, theirs = stepped(decoder, dtype == "autocast")
    assert loss == pytest.approx(expected, rel=0.01)
    for name, gradient in gradients.items():
        assert (gradient - theirs[name]).norm() <= 0.05 * theirs[name].norm(), name


def test_with_dropout_each_part_has_a_mask_of_its_own_as_in_peft():
    decoder = adapted(dropout=0.5)
    loss, gradients = stepped(decoder)
    by_peft(decoder)
    expected, theirs = stepped(decoder)  # from the same random numbers
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        assert (gradient - theirs[name]).norm() <= 1e-4 * theirs[name].norm(), name
    assert adapted(dropout=0.0).eval().loss(*2 * [torch.arange(6)[None]]).item() == pytest.approx(
        decoder.eval().loss(*2 * [torch.arange(6)[None]]).item(), rel=1e-5
    )


def test_a_frozen_head_gets_no_gradient_and_the_hidden_state_the_same():
    head, targets = torch.randn(16, 8), torch.randint(16, (40,))
    found = []
    for trained in (True, False):
        hidden = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        weight = head.clone().requires_grad_(trained)
        mean_cross_entropy(hidden, weight, targets, logits_bytes=16 * 4 * 10).backward()
        assert (weight.grad is not None) is trained
        found.append(hidden.grad)
    assert torch.equal(*found)


def frozen(blocks):
    decoder = build(3)
    freeze.attach(decoder, blocks=blocks)
    return decoder


@pytest.mark.parametrize(
    "make",
    [
        lambda: build(3),
        lambda: frozen(1),
        lambda: frozen(2),
        lambda: adapted(num_layers=3),
        lambda: adapted("lora on some", num_layers=3),
    ],
    ids=["full", "last block", "last two", "lora", "lora on some"],
)
def test_a_step_with_frozen_weights_executes_the_operations_that_the_costs_say(make, monkeypatch):
    decoder = make()
    for number in range(3):
        mixer = decoder.block(number).mixer
        mixer.forward = lambda x, positions, state, ids, mixer=mixer: mixer.reference(x, positions, ids)
        written_out = lambda tokens, context=0, mixer=mixer: mixer.reference_flops(tokens)  # noqa: E731
        monkeypatch.setattr(mixer, "model_flops", written_out)
    by_peft(decoder)  # counts no product with a block's zeros
    tokens = torch.randint(64, (2, 31))
    with FlopCounterMode(display=False) as counter:
        decoder.loss(tokens, tokens).backward()
    assert counter.get_total_flops() == pytest.approx(costs.train_work(decoder, 2, 31).model_flops, rel=0.005)


def test_frozen_weights_are_read_once_at_least_and_have_no_gradient_and_no_state():
    decoder = frozen(1)
    trained = sum(p.nbytes for p in decoder.block(2).parameters())
    rest = costs.facts(decoder, 4, 16).weight_bytes - trained
    work = costs.train_work(decoder, 1, 16)
    assert work.moved_bytes == 10 * trained + rest
    assert work.working_set_bytes == 4 * trained + rest
    counts = costs.facts(decoder, 4, 16, trains_in=torch.float32)
    assert counts.parameters_trained == trained // 4
    assert costs.facts(decoder, 4, 16).parameters_trained == 0


@pytest.mark.parametrize(("make", "graphs"), [(lambda: frozen(1), 2), (lambda: adapted("dora", num_layers=4), 2)])
def test_a_layer_compiles_whole_and_once_for_all_layers_of_its_kind(make, graphs):
    """One kind: what comes in has a gradient or not, and so its weights."""
    decoder = make()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    expected, gradients = stepped(decoder)
    for number in range(decoder.shape.num_layers):
        decoder.block(number).compile(dynamic=False, fullgraph=True, backend="aot_eager")
    loss, compiled = stepped(decoder)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        assert (gradient - compiled[name]).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_what_is_computed_again_drops_the_same(recompute):
    decoder = adapted(dropout=0.5)
    expected = stepped(decoder)[1]
    decoder.checkpoints_blocks = recompute == "full"
    for number in range(2):
        decoder.block(number).mlp.recomputes = recompute == "selective"
    for name, gradient in stepped(decoder)[1].items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name
