"""What lives in the host's memory: the optimiser there steps as the plain one does, layers come and go, nothing is lost.

Host and device are one memory here; what a copy moves, and when, is the same.
"""

import gc
import re
import weakref

import pytest
import torch

from efficientllm import catalog
from efficientllm.data.prepare import prepare
from efficientllm.devices.choose import open_device
from efficientllm.errors import Unsupported
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.models.linear import stored_bytes
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.choose import load_optimizer
from efficientllm.training.loop import TrainLoop
from efficientllm.training.loop_state import read_state, write_state
from efficientllm.training.offload import building_device
from efficientllm.training.tokens import StepTokens

SMALL = {"num_layers": 3, "width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}


def loop_of(text, **more):
    fields = {"tokens": 64 * 20, "micro_batch": 2, "sequence_tokens": 32, "heldout_tokens": 256, "vocab_tokens": 320}
    settings = PretrainSettings(shape=SMALL, corpus=Choice(name=str(text / "corpus")), **fields, **more)
    prepared = prepare(settings, text / "cache", settings.tokens)
    decoder = build_decoder(settings, vocab_tokens=320, seed=0, device="cpu")
    return TrainLoop(
        decoder,
        settings,
        StepTokens(prepared.train, settings, open_device("cpu").torch_device(), 0),
        open_device("cpu"),
    )


def weights(loop):
    with loop.at_rest():
        return {name: weight.clone() for name, weight in loop.decoder.state_dict().items()}


def assert_same_weights(loop, other):
    ours, theirs = weights(loop), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("optimizer", catalog.names("optimizer"))
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("offload", ["optimizer", "weights"])
def test_it_takes_the_very_steps_of_training_without_it(text, offload, accumulation, optimizer):
    # clip_norm .1 is below every norm here, so that the gradients are scaled
    more = {"accumulation": accumulation, "optimizer": Choice(name=optimizer), "clip_norm": 0.1}
    plain, offloaded = loop_of(text, **more), loop_of(text, offload=offload, **more)
    assert [plain.step() for _ in range(3)] == [offloaded.step() for _ in range(3)]
    assert_same_weights(plain, offloaded)


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("mlp", ["dense", "moe"])
def test_streamed_layers_go_together_with_recompute_and_experts(text, mlp, recompute):
    # the bias that balances experts is moved by the layer itself, after the step
    options = {"balance": "bias", "bias_speed": 0.1} if mlp == "moe" else {}
    choice = Choice(name=mlp, options=options)
    more = {"mlp": choice, "activation_checkpointing": recompute, "dtype": "bfloat16"}
    plain, streamed = loop_of(text, **more), loop_of(text, offload="weights", **more)
    assert [plain.step() for _ in range(2)] == [streamed.step() for _ in range(2)]
    assert_same_weights(plain, streamed)


def test_streamed_layers_go_together_with_compiled_ones(text):
    losses = [
        [loop.step() for _ in range(2)]
        for loop in (loop_of(text, compile=True), loop_of(text, compile=True, offload="weights"))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_at_most_two_layers_are_there_at_a_time_and_none_between_steps(text, recompute):
    loop = loop_of(text, offload="weights", activation_checkpointing=recompute)
    layers = loop._streamed
    seen = []
    for number in range(3):
        block = loop.decoder.block(number)
        block.register_forward_pre_hook(lambda *_: seen.append(layers.num_here))
        block.mlp_norm.register_full_backward_hook(lambda *_: seen.append(layers.num_here))
    for _ in range(2):
        loop.step()
        assert layers.num_here == 0
        assert all(p.untyped_storage().nbytes() == 0 for p in loop.decoder.blocks.parameters())
    assert max(seen) == 2 and len(seen) == 2 * 3 * (3 if recompute == "full" else 2)
    assert all(p.grad is None for p in loop.decoder.parameters())


def test_gradients_leave_the_device_as_soon_as_they_are_complete(text):
    loop = loop_of(text, offload="optimizer", accumulation=2)
    first, last = loop.decoder.block(0).mlp.down.weight, loop.decoder.block(2).mlp.down.weight
    left = []
    first.register_hook(lambda _: left.append(last.grad is None))
    loop.step()
    assert left == [False, True]  # the first pass's must wait for the second's


def test_streamed_weights_are_judged_saved_and_counted_as_others(text, tmp_path):
    plain, streamed = loop_of(text), loop_of(text, offload="weights")
    for loop in (plain, streamed):
        loop.step()
    assert stored_bytes(streamed.decoder) == stored_bytes(plain.decoder)
    tokens = torch.arange(64).view(2, 32)
    with torch.inference_mode():
        assert torch.equal(streamed.decoder(tokens), plain.decoder(tokens))
    assert streamed._streamed.num_here == 0
    for loop, name in ((plain, "plain"), (streamed, "streamed")):
        with loop.at_rest():
            checkpoint.save(loop.decoder, loop.settings, tmp_path / name)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "streamed")]
    assert files[0] == files[1]
    assert plain.step() == streamed.step()  # reading and evaluating have changed nothing


@pytest.mark.parametrize("optimizer", catalog.names("optimizer"))
@pytest.mark.parametrize("offload", ["none", "optimizer", "weights"])
def test_training_goes_on_from_a_checkpoint(text, tmp_path, offload, optimizer):
    more = {"offload": offload, "optimizer": Choice(name=optimizer), "mlp": Choice(name="moe")}
    whole, resumed = loop_of(text, **more), loop_of(text, **more)
    for _ in range(2):
        whole.step()
    _, numbers = write_state(whole, tmp_path)
    read_state(resumed, tmp_path, numbers)
    resumed.go_on(whole.steps_done, whole.first_loss)
    assert [whole.step() for _ in range(2)] == [resumed.step() for _ in range(2)]
    assert_same_weights(whole, resumed)


def test_a_weight_without_a_gradient_stays_and_one_with_few_is_stepped():
    class Choosy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.sometimes, self.never = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3))

    ends = []
    for offload in ("none", "optimizer"):
        model = Choosy()
        settings = PretrainSettings(accumulation=2, offload=offload, clip_norm=0.0)
        optimizer = load_optimizer(settings, model)
        for _ in range(2):
            model.used.square().sum().backward()
            (model.used.square().sum() + model.sometimes.square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert torch.equal(ends[1]["never"], torch.ones(2, 2)) and not torch.equal(ends[1]["sometimes"], ends[1]["never"])


@pytest.mark.parametrize("offload", ["optimizer", "weights"])
def test_on_a_processor_there_is_nothing_to_offload(offload):
    settings = PretrainSettings(offload=offload)
    why = re.escape(f"offload {offload}: the weights live in the host's memory already")
    with pytest.raises(Unsupported, match=why):
        building_device(settings, torch.device("cpu"))
    assert building_device(PretrainSettings(), torch.device("cpu")) == torch.device("cpu")


def test_a_card_builds_streamed_weights_in_the_hosts_memory_and_refuses_to_share_them():
    card = torch.device("cuda")
    assert building_device(PretrainSettings(offload="weights"), card) == torch.device("cpu")
    assert building_device(PretrainSettings(offload="optimizer"), card) == card
    with pytest.raises(Unsupported, match=r"offload weights with ranks 2: .* Set one of the two"):
        building_device(PretrainSettings(offload="weights", ranks=2), card)


def test_weights_are_drawn_as_on_the_device_wherever_they_are_built():
    settings = PretrainSettings(shape=SMALL)
    here = build_decoder(settings, vocab_tokens=320, seed=0, device="cpu")
    drawn = build_decoder(settings, vocab_tokens=320, seed=0, device="cpu", draws_on=torch.device("cpu"))
    assert torch.equal(here.embed.weight, drawn.embed.weight)


@pytest.mark.parametrize("offload", ["none", "optimizer", "weights"])
def test_a_loop_that_is_given_up_leaves_no_weights_behind(text, offload):
    loop = loop_of(text, offload=offload)
    loop.step()
    left = [weakref.ref(parameter) for parameter in loop.decoder.parameters()]
    del loop
    gc.collect()
    assert not any(parameter() is not None for parameter in left)  # the next trial of the process needs their memory
