"""Learning rates that differ by parameter: LoRA+ has them, and nothing else changes."""

import pytest
from tests.adapted import TOKENS, attached, decoder_of

from efficientllm.errors import UserError
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.choose import load_optimizer
from efficientllm.training.optimizers._contract import parameter_groups, set_rate

SETTINGS = TrainingSettings(learning_rate=0.01, weight_decay=0.1)


def rates(optimizer, model):
    """Return name -> rate of what an optimiser changes."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}


def test_b_learns_at_sixteen_times_the_rate_of_a():
    method = attached(decoder_of(), "lora_plus")
    optimizer = load_optimizer(SETTINGS, method.decoder, rate_factor=method.rate_factor)
    set_rate(optimizer.param_groups, 0.001)
    found = rates(optimizer, method.decoder)
    assert found.keys() == method.trained().keys()
    for name, rate in found.items():
        assert rate == pytest.approx(0.016 if ".lora_B." in name else 0.001)


def test_b_moves_sixteen_times_as_far_in_a_first_step():
    def first_step(name):
        method = attached(decoder_of(), name)
        optimizer = load_optimizer(SETTINGS, method.decoder, rate_factor=method.rate_factor)
        set_rate(optimizer.param_groups, 0.001)
        method.decoder.hidden(TOKENS).square().mean().backward()
        optimizer.step()
        return {key: p.detach() for key, p in method.trained().items() if ".lora_B." in key}  # it began at zero

    slow, fast = first_step("lora"), first_step("lora_plus")
    for key, moved in fast.items():
        assert (moved - 16 * slow[key]).abs().max() < 1e-6 and moved.abs().max() > 0.015


def test_groups_split_only_where_factors_differ():
    method = attached(decoder_of(), "dora")
    plain = parameter_groups(method.decoder, SETTINGS)
    assert [(group["weight_decay"], group["rate_factor"]) for group in plain] == [(0.1, 1.0), (0.0, 1.0)]
    assert [len(group["params"]) for group in parameter_groups(method.decoder, SETTINGS, lambda name: 1.0)] == [
        len(group["params"]) for group in plain
    ]
    split = parameter_groups(method.decoder, SETTINGS, lambda name: 4.0 if ".lora_B." in name else 1.0)
    assert [(group["weight_decay"], group["rate_factor"]) for group in split if group["params"]] == [
        (0.1, 1.0),
        (0.1, 4.0),
        (0.0, 1.0),
    ]


def test_a_group_without_a_factor_has_the_rate_itself():
    groups = [{"lr": 0.0}, {"lr": 0.0, "rate_factor": 3.0}]
    set_rate(groups, 0.5)
    assert [group["lr"] for group in groups] == [0.5, 1.5]


def test_a_ratio_that_is_none_is_refused():
    with pytest.raises(UserError, match="ratio 0"):
        attached(decoder_of(), "lora_plus", ratio=0)
