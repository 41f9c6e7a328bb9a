"""Mixture of experts: every way to compute it, what balances it, what is counted, saved and drawn."""

import gc
import math
import types
import weakref

import pytest
import torch
import torch.nn.functional as F

from efficientllm.errors import Unsupported, UserError
from efficientllm.models import checkpoint, costs, expert_load
from efficientllm.models.build import build_decoder
from efficientllm.models.mlp import _moe_paths as paths
from efficientllm.models.mlp._checks import SHAPE, make_mlp
from efficientllm.models.mlp._contract import LoadTally, MlpEntry
from efficientllm.models.mlp._moe_router import balance_loss, count_tokens, entropy_nats, z_loss
from efficientllm.models.mlp.moe import MixtureOfExperts
from efficientllm.models.part import same_choices
from efficientllm.records.card import Card
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

PATHS = ["split", "grouped", "gathered", "masked"]
SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96}


def layer(**options):
    return make_mlp(MlpEntry(card=Card(title="", source=""), build=lambda shape: MixtureOfExperts(shape, **options)))


def decoder_of(seed=0, dtype=torch.float32, device="cpu", shape=SMALL, **options):
    settings = ModelSettings(shape=shape, mlp=Choice(name="moe", options=options))
    return build_decoder(settings, vocab_tokens=96, seed=seed, device=device, dtype=dtype)


def tokens(rows, length, seed=0):
    return torch.randint(96, (rows, length), generator=torch.Generator().manual_seed(seed))


def vectors(number, seed=0):
    return torch.randn(number, SHAPE.width, generator=torch.Generator().manual_seed(seed))


def gradients(run, mlp, x, pull):
    x = x.clone().requires_grad_()
    mlp.zero_grad()
    out = run(x)
    out.backward(pull)
    return [out.detach(), x.grad, *(p.grad for p in mlp.parameters() if p.requires_grad)]


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("number", [1, 7, 37])
@pytest.mark.parametrize("path", PATHS)
def test_every_path_gives_results_and_gradients_of_the_reference(path, number, skewed):
    mlp, x = layer(), vectors(number)
    if skewed:  # experts 1 to 7 take part, expert 0 gets no token, expert 5 gets nearly all
        with torch.no_grad():
            x[:, 0] = 3.0
            mlp.router.linear.weight[:, 0] = torch.tensor([-9.0, 0, 0, 0, 0, 9.0, 0, 0])
    expected = gradients(mlp.reference, mlp, x, vectors(number, 1))
    got = gradients(lambda x: mlp.compute(x, mlp.router(x), path), mlp, x, vectors(number, 1))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)
    if skewed:
        load = count_tokens(mlp.router(x).chosen_MA, 8)
        assert load[0] == 0 and load[5] == number
        assert not mlp.gate_up.weight.grad[0].any() and mlp.gate_up.weight.grad[5].any()


@pytest.mark.parametrize("path", PATHS)
def test_every_path_gives_nearly_the_float32_result_in_bfloat16(path):
    full, x = layer().to(torch.bfloat16).float(), vectors(37).to(torch.bfloat16).float()
    expected = gradients(full.reference, full, x, vectors(37, 1))
    low = layer().to(torch.bfloat16)
    got = gradients(lambda x: low.compute(x, low.router(x), path), low, x.to(torch.bfloat16), vectors(37, 1).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gradients(lambda x: full.compute(x, full.router(x), path).float(), full, x, vectors(37, 1))
    for a, m, b in zip(got, mixed, expected, strict=True):
        assert a.dtype == torch.bfloat16 and m.dtype == torch.float32
        for one in (a, m):
            assert (one.float() - b).norm() < 0.02 * b.norm()


def test_one_token_is_computed_without_sorting_as_with_it():
    mlp, x = layer(), vectors(1)
    routing = mlp.router(x)
    torch.testing.assert_close(mlp.compute(x, routing, "one token"), mlp.compute(x, routing, "split"))


def test_sorting_puts_each_pair_behind_those_of_lower_experts():
    order = paths.sort_by_expert(torch.tensor([[2, 0], [0, 3], [2, 3]]), 5)
    assert order.pair_P.tolist() == [1, 2, 0, 4, 3, 5]
    assert order.token_P.tolist() == [0, 1, 0, 2, 1, 2]
    assert order.inverse_P[order.pair_P].tolist() == list(range(6))
    assert order.ends_E.tolist() == [2, 2, 4, 6, 6] and order.ends_E.dtype == torch.int32


@pytest.mark.parametrize(
    ("device", "dtype", "width", "experts", "major", "fits"),
    [
        ("cuda:0", torch.bfloat16, 896, 8, 9, True),
        ("cuda:0", torch.bfloat16, 896, 8, 8, False),  # torch loops and waits there
        ("cuda:0", torch.float32, 896, 8, 9, False),
        ("cuda:0", torch.float16, 896, 8, 9, False),
        ("cuda:0", torch.bfloat16, 100, 8, 9, False),  # rows of 200 bytes
        ("cuda:0", torch.bfloat16, 896, 1024, 9, False),
        ("cpu", torch.bfloat16, 896, 8, 9, False),
    ],
)
def test_the_grouped_product_is_used_where_it_is_one_kernel(device, dtype, width, experts, major, fits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (major, 0))
    assert paths.grouped_fits(torch.device(device), dtype, width, 4864, experts) == fits


@pytest.mark.parametrize(
    ("device", "rows", "tokens", "groups", "training", "path"),
    [
        ("cuda:0", 3, 100, True, True, "grouped"),
        ("cuda:0", 3, 1, True, False, "grouped"),
        ("cuda:0", 3, 100, False, True, "split"),
        ("cuda:0", 3, 1, False, False, "gathered"),  # six pairs: fewer than eight experts
        ("cuda:0", 4, 1, False, False, "masked"),
        ("cpu", 1, 1, False, False, "one token"),
        ("cpu", 1, 1, False, True, "split"),
        ("cpu", 4, 1, False, False, "split"),
    ],
)
def test_a_step_that_may_be_captured_takes_a_path_of_fixed_shapes(
    device, rows, tokens, groups, training, path, monkeypatch
):
    mlp = layer().train(training)
    monkeypatch.setattr(mlp, "_groups", lambda dtype: groups)
    x = types.SimpleNamespace(shape=torch.Size((rows, tokens, 48)), device=torch.device(device))
    assert mlp._path(x) == path


def test_a_mixers_hooks_are_called_as_an_mlps_are(monkeypatch):
    decoder, called = decoder_of(aux_loss=0.0), []
    monkeypatch.setattr(decoder.block(1).mixer, "losses", lambda: {"mine": torch.tensor(3.0)})
    monkeypatch.setattr(decoder.block(1).mixer, "after_step", lambda: called.append(1))
    assert decoder.losses(tokens(2, 16), tokens(2, 16))[1] == 3.0
    decoder.after_step()
    assert called == [1]


def test_the_layer_names_how_it_computes():
    assert layer().implementation(torch.float32, gradients=True) == "split"
    assert costs.facts(decoder_of(), 4, 32).implementations == {"mlp": "split"}
    dense = build_decoder(ModelSettings(shape=SMALL), vocab_tokens=96, seed=0, device="cpu")
    assert costs.facts(dense, 4, 32).implementations == {}


def test_the_weights_of_the_chosen_are_their_softmax_and_add_up_to_one():
    mlp, x = layer(), vectors(9)
    routing, logits = mlp.router(x), vectors(9) @ mlp.router.linear.weight.t()
    best = logits.topk(2, -1)
    assert routing.chosen_MA.equal(best.indices)
    torch.testing.assert_close(routing.weights_MA, best.values.softmax(-1))


def test_one_expert_a_token_keeps_its_probability_so_that_the_router_learns():
    mlp, x = layer(active_experts=1), vectors(9)
    routing = mlp.router(x)
    torch.testing.assert_close(routing.weights_MA[:, 0], routing.scores_ME.amax(-1))
    mlp.compute(x, routing, "split").square().sum().backward()
    assert mlp.router.linear.weight.grad.any()


def test_the_router_computes_in_float32_under_autocast():
    mlp, x = layer(), vectors(9)
    with torch.autocast("cpu", torch.bfloat16):
        low = mlp.router(x)
    assert low.logits_ME.dtype == torch.float32 and low.logits_ME.equal(mlp.router(x).logits_ME)


def test_a_bias_moves_the_choice_and_not_the_weights():
    mlp, x = layer(balance="bias"), vectors(9)
    with torch.no_grad():
        mlp.router.bias.zero_()[3] = 100.0
    routing = mlp.router(x)
    assert (routing.chosen_MA[:, 0] == 3).all()
    scores = (x @ mlp.router.linear.weight.t()).sigmoid().gather(1, routing.chosen_MA)
    torch.testing.assert_close(routing.weights_MA, scores / scores.sum(-1, keepdim=True))


def test_the_losses_are_those_worked_out_by_hand():
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]])
    # three experts; shares sent 3/4, 1/4, 0; mean shares .6, .25, .15
    assert balance_loss(shares, torch.tensor([3, 1, 0])).item() == pytest.approx(3 * (0.75 * 0.6 + 0.25 * 0.25))
    even = torch.full((4, 8), 1 / 8)
    assert balance_loss(even, torch.tensor([1] * 8)).item() == pytest.approx(1.0)
    assert balance_loss(F.one_hot(torch.zeros(4, dtype=torch.int64), 8).float(), torch.tensor([4] + [0] * 7)) == 8
    assert entropy_nats(even).item() == pytest.approx(math.log(8))
    assert z_loss(torch.zeros(5, 8)).item() == pytest.approx(math.log(8) ** 2)


def test_the_losses_carry_their_weights():
    x = vectors(21)[None]
    plain, heavy = layer(z_loss=0.5), layer(aux_loss=0.04, z_loss=1.0)
    plain(x), heavy(x)
    small, large = plain.losses(), heavy.losses()
    assert set(small) == {"balance", "router_z"}
    assert large["balance"].item() == pytest.approx(4 * small["balance"].item())
    assert large["router_z"].item() == pytest.approx(2 * small["router_z"].item())
    for mlp in (layer(aux_loss=0), layer(balance="bias")):
        mlp(x)
        assert not mlp.losses()


def test_the_balance_loss_evens_a_skewed_router_out():
    results = {}
    for weight in (0.0, 0.1):
        mlp, x = layer(aux_loss=weight), vectors(256)
        with torch.no_grad():
            x[:, 0] = 1.0
            mlp.router.linear.weight[2, 0] += 3.0
        optimizer = torch.optim.Adam(mlp.router.parameters(), lr=0.03)
        for _ in range(40):
            mlp(x[None])
            extra = mlp.losses()
            optimizer.zero_grad()
            for loss in extra.values():
                loss.backward()
            optimizer.step()
        load = count_tokens(mlp.router(x).chosen_MA, 8)
        results[weight] = (load.max() / load.float().mean()).item()
    assert results[0.0] > 3 and results[0.1] < 1.6


def test_the_bias_moves_by_its_speed_towards_an_even_load_once_a_step():
    mlp = layer(balance="bias", bias_speed=0.25)
    with torch.no_grad():
        mlp.router.bias.zero_()
    for part in vectors(60).split((20, 40)):  # two micro-batches of one step
        mlp(part[None])
    load = mlp.step_load().clone()
    assert load.sum() == 2 * 60
    mlp.after_step()
    assert mlp.router.bias.equal(0.25 * (15 - load.float()).sign())
    assert not mlp.step_load().any()


def test_the_bias_evens_a_skewed_router_out():
    mlp, x = layer(balance="bias", bias_speed=0.02), vectors(256)
    with torch.no_grad():
        mlp.router.bias.zero_()
        x[:, 0] = 1.0
        mlp.router.linear.weight[2, 0] += 3.0
    ratios = []
    for _ in range(60):
        mlp(x[None])
        ratios.append((mlp.step_load().max() / mlp.step_load().float().mean()).item())
        mlp.after_step()
    assert ratios[0] > 3 and ratios[-1] < 1.4


def test_loads_are_counted_in_training_only_and_from_the_reset_on():
    mlp, x = layer(), vectors(30)[None]
    mlp(x)
    mlp.after_step()
    mlp.reset_load()
    expected = torch.zeros(8, dtype=torch.int64)
    entropies = []
    for seed in (1, 2, 3):
        mlp(vectors(30, seed)[None])
        routing = mlp.router(vectors(30, seed))
        expected += count_tokens(routing.chosen_MA, 8)
        entropies.append(entropy_nats(routing.scores_ME).item())
        mlp.after_step()
    with torch.no_grad():
        mlp(x)
    mlp.eval()(x)
    assert not mlp.step_load().any()
    tally = mlp.load_tally()
    assert tally.tokens == tuple(expected.tolist()) and sum(tally.tokens) == 3 * 30 * 2
    assert tally.entropy_nats == pytest.approx(sum(entropies) / 3, abs=1e-5)


def test_casting_the_model_leaves_the_counts():
    mlp = layer()
    mlp.counters[1] += 123_456_789
    assert (mlp.to(torch.bfloat16).counters[1] == 123_456_789).all()


def test_the_figures_of_the_load_are_those_worked_out_by_hand(monkeypatch):
    decoder = decoder_of(num_experts=4)
    first, second = LoadTally((6, 2, 0, 0), 1.0), LoadTally((2, 2, 2, 2), 0.5)
    for number, tally in enumerate((first, second)):
        monkeypatch.setattr(decoder.block(number).mlp, "load_tally", lambda tally=tally: tally)
    figures = expert_load.figures(decoder)
    assert figures["layer_00_expert_load_max_ratio"] == figures["expert_load_max_ratio"] == 3.0
    assert figures["layer_01_expert_load_max_ratio"] == 1.0
    cv = math.sqrt((16 + 0 + 4 + 4) / 4) / 2
    assert figures["layer_00_expert_load_cv_ratio"] == pytest.approx(cv)
    assert figures["expert_load_cv_ratio"] == pytest.approx(cv / 2)
    assert (figures["layer_00_expert_idle_ratio"], figures["expert_idle_ratio"]) == (0.5, 0.25)
    assert figures["router_entropy_nats"] == 0.75


def test_a_dense_decoder_has_no_loads():
    dense = build_decoder(ModelSettings(shape=SMALL), vocab_tokens=96, seed=0, device="cpu")
    expert_load.reset(dense)
    assert expert_load.figures(dense) == {} and expert_load.step_max_ratio(dense) is None


def test_the_step_ratio_is_that_of_the_worst_layer():
    decoder = decoder_of()
    decoder.loss(tokens(2, 16), tokens(2, 16))
    loads = [decoder.block(number).mlp.step_load().tolist() for number in range(2)]
    assert expert_load.step_max_ratio(decoder).item() == pytest.approx(max(max(load) / (64 / 8) for load in loads))


def test_the_reported_loss_is_the_plain_cross_entropy():
    decoder, x, y = decoder_of(), tokens(2, 16), tokens(2, 16, 1)
    loss, extra = decoder.losses(x, y)
    plain = F.cross_entropy(decoder(x).flatten(0, 1), y.flatten())
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5) == decoder.loss(x, y).item()
    assert 2 * 0.01 <= extra.item() < 2 * 0.08  # two layers, each between even and all to one expert
    dense = build_decoder(ModelSettings(shape=SMALL), vocab_tokens=96, seed=0, device="cpu")
    assert dense.losses(x, y)[1] is None


class Marker:
    """A hook that lives as long as the graph it hangs on."""

    def __call__(self, grad):
        return grad


@pytest.mark.parametrize("backward", [True, False])
def test_no_graph_outlives_its_step(backward):
    decoder, seen = decoder_of(), []

    def mark(module, args, routing):
        marker = Marker()
        routing.logits_ME.register_hook(marker)
        seen.append(weakref.ref(marker))

    decoder.block(0).mlp.router.register_forward_hook(mark)
    loss, extra = decoder.losses(tokens(2, 16), tokens(2, 16))
    assert seen[0]() is not None
    if backward:
        (loss + extra).backward()
    del loss, extra
    gc.collect()
    assert seen[0]() is None


def test_a_checkpoint_holds_the_experts_the_router_and_its_bias(tmp_path):
    settings = ModelSettings(shape=SMALL, mlp=Choice(name="moe", options={"balance": "bias", "shared_experts": 1}))
    decoder = build_decoder(settings, vocab_tokens=96, seed=0, device="cpu")
    with torch.no_grad():
        decoder.block(1).mlp.router.bias.copy_(torch.linspace(-0.1, 0.1, 8))
    checkpoint.save(decoder, settings, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), loaded.parameters(), strict=True))
    assert loaded.block(1).mlp.router.bias.any() and not loaded.block(1).mlp.router.bias.requires_grad
    x = tokens(2, 16)
    assert torch.equal(loaded(x), decoder(x))
    assert checkpoint.weight_file_bytes(tmp_path / "model") > 4 * costs.num_parameters(decoder)
    assert checkpoint.load(tmp_path / "model", dtype=torch.bfloat16)(x).isfinite().all()


def test_the_first_weights_of_an_expert_come_from_seed_and_name_alone():
    first, again, other, fewer = decoder_of(), decoder_of(), decoder_of(seed=1), decoder_of(num_experts=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    own, less = first.block(0).mlp, fewer.block(0).mlp
    assert own.gate_up.weight[:4].equal(less.gate_up.weight)
    assert not own.gate_up.weight.equal(other.block(0).mlp.gate_up.weight)
    assert not own.gate_up.weight[0].equal(own.gate_up.weight[1])
    assert not own.gate_up.weight[0].equal(first.block(1).mlp.gate_up.weight[0])
    dense = dict(build_decoder(ModelSettings(shape=SMALL), vocab_tokens=96, seed=0, device="cpu").named_parameters())
    assert all(torch.equal(p, dense[n]) for n, p in first.named_parameters() if ".mlp." not in n)
    assert own.gate_up.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert own.down.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * 2), rel=0.02)
    assert own.router.linear.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("path", "dtype"), [("grouped", torch.bfloat16), ("masked", torch.float32), ("gathered", torch.float32)]
)
def test_paths_of_fixed_shapes_compile_without_a_break(path, dtype, monkeypatch):
    monkeypatch.setattr(MixtureOfExperts, "_path", lambda self, x_BTD: path)
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        decoder = decoder_of(shape={**SMALL, "num_layers": 1}, z_loss=0.01, balance="bias", aux_loss=0.01)
        run = torch.compile(decoder.losses, backend="aot_eager", fullgraph=True) if compiled else decoder.losses
        for seed in (0, 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss, extra = run(tokens(2, 13, seed), tokens(2, 13, seed + 2))
            (loss + extra).backward()
            decoder.after_step()
        flat = torch.cat([p.grad.flatten() for p in decoder.parameters() if p.requires_grad])
        mlp = decoder.block(0).mlp
        results.append((loss, extra, flat, mlp.router.bias, torch.tensor(mlp.load_tally().tokens)))
        assert not mlp.losses()
    limit = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for a, b in zip(*results, strict=True):
        assert (a - b).float().norm() <= limit * b.float().norm()


def test_a_path_that_reads_the_host_compiles_with_a_break():
    torch._dynamo.reset()
    decoder, x = decoder_of(shape={**SMALL, "num_layers": 1}), tokens(2, 13)
    expected = decoder.losses(x, x)
    got = torch.compile(decoder.losses, backend="aot_eager")(x, x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"active_experts": 9}, Unsupported, "9 active experts: there are num_experts 8"),
        ({"num_experts": 0}, UserError, "num_experts of mlp moe is 0. Give a whole number from 1"),
        ({"num_experts": "8"}, UserError, "num_experts of mlp moe is '8'"),
        ({"active_experts": True}, UserError, "active_experts of mlp moe is True"),
        ({"shared_experts": -1}, UserError, "shared_experts of mlp moe is -1. Give a whole number from 0"),
        ({"expert_width": 2.5}, UserError, "expert_width of mlp moe is 2.5"),
        ({"balance": "los"}, UserError, "balance of mlp moe is 'los'. Did you mean 'loss'"),
        ({"gate": "relu"}, UserError, "gate of mlp moe is 'relu'. Known: softmax, sigmoid"),
        ({"aux_loss": -0.1}, UserError, "aux_loss of mlp moe is -0.1"),
        ({"aux_loss": float("nan")}, UserError, "aux_loss of mlp moe is nan"),
        ({"z_loss": "big"}, UserError, "z_loss of mlp moe is 'big'"),
        ({"bias_speed": 0.1}, UserError, "bias_speed of mlp moe has no effect with balance=loss"),
        ({"expert": 3}, UserError, "unknown option 'expert' of mlp moe. Did you mean"),
    ],
)
def test_options_that_make_no_mixture_are_refused_with_the_reason(options, error, says):
    with pytest.raises(error, match=says):
        decoder_of(**options)


def test_number_formats_are_compared_at_the_same_choice_of_experts():
    mlp, x, other = layer(), torch.randn(1, 40, 48), torch.randn(1, 40, 48)
    own = mlp.router(other[0]).chosen_MA
    with same_choices(mlp):
        first = mlp.router(x[0]).chosen_MA
        assert torch.equal(mlp.router(other[0]).chosen_MA, first)
        low = mlp.router(x[0].bfloat16())
        assert torch.equal(low.chosen_MA, first)
        assert torch.allclose(low.weights_MA.sum(-1), torch.ones(40))  # weights are of the same experts, not of others
    assert not torch.equal(first, own)
    assert torch.equal(mlp.router(other[0]).chosen_MA, own)
