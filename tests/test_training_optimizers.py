"""Every optimiser of the folder is held to the contract: it learns, goes on exactly, and is as large as it says."""

import copy
import sys
from itertools import pairwise

import pytest
import torch

from efficientllm import catalog, registry
from efficientllm.errors import Unsupported, UserError
from efficientllm.records.choice import Choice
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.choose import load_optimizer, state_bytes_on_device
from efficientllm.training.optimizers._contract import set_rate

OPTIMIZERS = catalog.names("optimizer")
#: One above and one below what 8 bits begin with, one that is no multiple of a block, and what is no matrix.
SHAPES = {"wide": (64, 128), "small": (16, 128), "uneven": (97, 101), "gain": (128,)}


class LeastSquares(torch.nn.Module):
    """Find the weights that another seed has drawn."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            weight = torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
            self.register_parameter(name, torch.nn.Parameter(weight))
        self.wanted = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    def loss(self):
        return sum((p.float() - self.wanted[name]).square().mean() for name, p in self.named_parameters())


def settings_of(name):
    return TrainingSettings(optimizer=Choice(name=name), learning_rate=0.03)


def steps(model, optimizer, number):
    losses = []
    for step in range(number):
        set_rate(optimizer.param_groups, 0.03 / (1 + step))
        loss = model.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def storages(value):
    """Yield the plain tensors of a state: a quantised one consists of several."""
    if hasattr(value, "__tensor_flatten__"):
        for name in value.__tensor_flatten__()[0]:
            yield from storages(getattr(value, name))
    else:
        yield value


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_lower_the_loss_and_two_equal_runs_are_bit_equal(name):
    runs = []
    for _ in range(2):
        model = LeastSquares()
        losses = steps(model, load_optimizer(settings_of(name), model), 6)
        assert all(later < earlier for earlier, later in pairwise(losses)), losses
        runs.append((losses, copy.deepcopy(model.state_dict())))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][key], runs[1][1][key]) for key in SHAPES)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_state_takes_the_bytes_that_the_entry_says(name, dtype):
    model = LeastSquares(dtype)
    optimizer = load_optimizer(settings_of(name), model)
    steps(model, optimizer, 1)
    said = registry.load("optimizer", name).state_bytes
    for parameter in model.parameters():
        held = sum(part.nbytes for value in optimizer.state[parameter].values() for part in storages(value))
        assert held == said(parameter.shape, parameter.dtype), parameter.shape


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_was_saved_and_loaded_goes_on_exactly(name, tmp_path):
    whole = LeastSquares()
    optimizer = load_optimizer(settings_of(name), whole)
    steps(whole, optimizer, 2)
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state")
    expected = steps(whole, optimizer, 3)

    saved = torch.load(tmp_path / "state", weights_only=True)
    other = LeastSquares()
    fresh = load_optimizer(settings_of(name), other)
    other.load_state_dict(saved["model"])
    fresh.load_state_dict(saved["optimizer"])
    assert steps(other, fresh, 3) == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


def test_eight_bits_stay_near_the_moments_that_they_stand_for():
    """The reference in floats is AdamW: after the same steps both are at the same place, up to 8 bits of a step."""
    places = {}
    for name in ("adamw", "adamw8bit"):
        model = LeastSquares()
        optimizer = load_optimizer(settings_of(name), model)
        start = model.wide.detach().clone()
        steps(model, optimizer, 5)
        places[name] = (model.wide.detach() - start, optimizer.state[model.wide]["exp_avg"])
    moved, expected = places["adamw8bit"][0], places["adamw"][0]
    assert (moved - expected).norm() < 0.02 * expected.norm()
    assert not torch.equal(moved, expected)
    moment, exact = places["adamw8bit"][1].dequantize(), places["adamw"][1]
    assert (moment - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimisers_card_says_what_it_is(name):
    card = registry.load("optimizer", name).card
    assert card.title and card.source.startswith("arXiv:") and (card.improves or card.costs)


def test_without_torchao_the_reason_says_what_to_install(monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(Unsupported, match=r"adamw8bit needs torchao .*pip install 'efficientllm\[lowbit\]'"):
        load_optimizer(settings_of("adamw8bit"), LeastSquares())


def test_an_option_that_an_optimiser_does_not_have_is_refused():
    settings = TrainingSettings(optimizer=Choice(name="adamw", options={"rank": 4}))
    with pytest.raises(UserError, match=r"unknown option 'rank' of optimizer adamw\. It has no options\."):
        load_optimizer(settings, LeastSquares())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_a_model_on_its_device_is_the_sum_over_its_trained_parameters(name):
    model = LeastSquares()
    model.gain.requires_grad_(False)
    optimizer = load_optimizer(settings_of(name), model)
    loss = model.loss()
    loss.backward()
    optimizer.step()
    held = sum(
        part.nbytes for state in optimizer.state.values() for value in state.values() for part in storages(value)
    )
    assert state_bytes_on_device(settings_of(name), model) == held
    away = TrainingSettings(optimizer=Choice(name=name), offload="optimizer")
    assert state_bytes_on_device(away, model) == 0
