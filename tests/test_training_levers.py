"""What saves memory changes the memory and not the model: the same losses, gradients and counts, fewer bytes kept."""

import math
import re

import pytest
import torch

from efficientllm import catalog
from efficientllm.data.prepare import prepare
from efficientllm.devices.choose import open_device
from efficientllm.errors import UserError
from efficientllm.models.build import build_decoder
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import load_recipe, recipe_from_text
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.blocks import prepare_blocks
from efficientllm.training.loop import TrainLoop
from efficientllm.training.tokens import StepTokens

SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96}
PARTS = [("mixer", name) for name in catalog.names("mixer")] + [("mlp", name) for name in catalog.names("mlp")]


def loop_of(text, **more):
    fields = {"tokens": 64 * 20, "sequence_tokens": 32, "heldout_tokens": 256, "vocab_tokens": 320, "shape": SMALL}
    settings = PretrainSettings(corpus=Choice(name=str(text / "corpus")), **{**fields, **more})
    prepared = prepare(settings, text / "cache", settings.tokens)
    dtype = getattr(torch, settings.weights_dtype)
    decoder = build_decoder(settings, vocab_tokens=320, seed=0, device="cpu", dtype=dtype)
    return TrainLoop(
        decoder,
        settings,
        StepTokens(prepared.train, settings, open_device("cpu").torch_device(), 0),
        open_device("cpu"),
    )


def decoder_of(recompute, **more):
    settings = PretrainSettings(shape=SMALL, activation_checkpointing=recompute, **more)
    decoder = build_decoder(settings, vocab_tokens=64, seed=0, device="cpu")
    prepare_blocks(decoder, settings)
    return decoder


def rows(length=48):
    return torch.randint(64, (2, length + 1), generator=torch.Generator().manual_seed(0))


def differentiate(decoder, length=48):
    """Return the loss, the auxiliary loss, the gradients and the counts of one pass."""
    tokens = rows(length)
    loss, extra = decoder.losses(tokens[:, :-1], tokens[:, 1:])
    (loss if extra is None else loss + extra).backward()
    gradients = {name: p.grad for name, p in decoder.named_parameters()}
    counts = [counter.clone() for part in decoder.parts() for counter in part.tallies()]
    left = [value for part in decoder.parts() for value in part.losses()]
    assert not left, "the repeated forward pass has left an auxiliary loss behind"
    return loss.detach(), extra, gradients, counts


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize(("slot", "name"), PARTS)
def test_recomputing_gives_the_same_loss_and_gradients(slot, name, recompute):
    part = {slot: Choice(name=name)}
    loss, _, gradients, _ = differentiate(decoder_of("none", **part))
    again, _, repeated, _ = differentiate(decoder_of(recompute, **part))
    assert again == loss
    for key, gradient in gradients.items():
        assert (gradient is None) == (repeated[key] is None), key
        if gradient is not None:
            torch.testing.assert_close(repeated[key], gradient, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_experts_are_counted_once_however_often_they_are_computed(recompute):
    choice = Choice(name="moe", options={"z_loss": 0.01, "shared_experts": 1})
    _, extra, _, counts = differentiate(decoder_of("none", mlp=choice))
    _, again, _, recounted = differentiate(decoder_of(recompute, mlp=choice))
    assert again == extra > 0
    assert len(counts) == 2 and all(torch.equal(a, b) for a, b in zip(counts, recounted, strict=True))
    assert int(counts[0][0, :-2].sum()) == 2 * 2 * 48  # two of the experts for each of 2 rows of 48 tokens


def kept_bytes(decoder, length=256):
    """Return the bytes that a forward pass keeps for the backward pass, weights not counted, each storage once."""
    weights = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is given out twice
        return tensor

    tokens = rows(length)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        decoder.losses(tokens[:, :-1], tokens[:, 1:])
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("mlp", ["dense", "moe"])
def test_recomputing_keeps_fewer_bytes(mlp):
    more = {"mlp": Choice(name=mlp), "mixer": Choice(name="gqa")}
    nothing, selective, full = (
        kept_bytes(decoder_of(recompute, **more)) for recompute in ("none", "selective", "full")
    )
    assert nothing > 1.2 * selective > 1.2 * 1.2 * full
    # of a layer whose all is recomputed its input remains
    residual = 2 * 256 * SMALL["width"] * 4
    assert full < 8 * residual, "more than the inputs of two layers, and what is outside of them"


@pytest.mark.parametrize("mlp", ["dense", "moe"])
def test_any_split_of_a_global_batch_takes_the_same_step(text, mlp):
    choice = Choice(name=mlp, options={"aux_loss": 0.0} if mlp == "moe" else {})
    splits = [{"micro_batch": 8}, {"micro_batch": 2}, {"micro_batch": 1, "accumulation": 8}]
    loops = [loop_of(text, mlp=choice, global_batch=8, **split) for split in splits]
    assert [loop.settings.passes for loop in loops] == [1, 4, 8]
    losses = [[loop.step() for _ in range(2)] for loop in loops]
    for loop, said in zip(loops[1:], losses[1:], strict=True):
        assert said == pytest.approx(losses[0], rel=1e-5)
        assert loop.tokens_seen == loops[0].tokens_seen == 2 * 8 * 32 and loop.num_steps == loops[0].num_steps
        for a, b in zip(loop.decoder.parameters(), loops[0].decoder.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize(("slot", "name"), PARTS)
def test_pure_bfloat16_learns_without_autocast(text, slot, name):
    loop = loop_of(
        text, **{slot: Choice(name=name)}, weights_dtype="bfloat16", dtype="bfloat16", micro_batch=2, learning_rate=3e-3
    )
    with loop.autocast():
        assert not torch.is_autocast_enabled("cpu")
    losses = [loop.step() for _ in range(12)]
    assert abs(losses[0] - math.log(320)) < 0.3 and losses[-1] < losses[0] - 0.1
    trained = [p for p in loop.decoder.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.bfloat16}
    moments = [loop._optimizer.state[p][key] for p in trained for key in ("exp_avg", "exp_avg_sq")]
    assert {moment.dtype for moment in moments} == {torch.bfloat16}


def test_what_bfloat16_would_blur_stays_float32(text):
    choice = Choice(name="moe", options={"balance": "bias"})
    loop = loop_of(text, mlp=choice, weights_dtype="bfloat16", dtype="bfloat16", micro_batch=2)
    assert {table.dtype for table in loop.decoder.position.buffers()} == {torch.float32}
    bias = loop.decoder.block(0).mlp.router.bias
    for _ in range(3):
        loop.step()
    assert bias.dtype == torch.float32 and bias.abs().max() > 0


RECIPE = """
name: levers
workload: pretrain
{}
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "global_batch: 16\nmicro_batch: 6",
            "global_batch 16 is no multiple of micro_batch 6 × ranks 1. Choose a divisor",
        ),
        (
            "global_batch: 16\nmicro_batch: 4\naccumulation: 2",
            "global_batch 16 and accumulation 2 contradict each other at micro_batch 4 × ranks 1. Leave one",
        ),
        ("weights_dtype: bfloat16", "weights_dtype bfloat16 needs dtype bfloat16, not float32"),
        ("offload: weight", "invalid enum value 'weight'; the value is 'weight'"),
        ("optimizer: adam", "unknown optimizer 'adam' in my.yaml: stages.pretrain.optimizer. Did you mean 'adamw'?"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line_with_file_and_stage(lines, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        expand(recipe_from_text(RECIPE.format(lines), "my.yaml"), "cpu")
    said = str(caught.value)
    assert "my.yaml: stages.pretrain" in said and "\n" not in said


def test_one_at_a_time_tries_each_lever_alone_and_names_rows_by_it():
    lines = "dtype: bfloat16\none_at_a_time: true\naxes: {offload: [none, weights], micro_batch: [8, 4, 2]}\nrepeats: 1"
    plan = expand(
        recipe_from_text(RECIPE.format(lines) + "baseline: {offload: none, micro_batch: 8}", "my.yaml"), "cpu"
    )
    assert [trial.technique() for trial in plan.trials] == ["none", "offload=weights", "micro_batch=4", "micro_batch=2"]
    assert [trial.baseline for trial in plan.trials] == [True, False, False, False]
    assert plan.trials[2].axes == {"offload": "none", "micro_batch": "4"}
    assert [trial.settings.micro_batch for trial in plan.trials] == [8, 8, 4, 2]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_levers_recipe_holds_the_rows_of_a_step_equal(device):
    plan = expand(load_recipe("pretraining/levers"), device)
    assert {trial.settings.rows_per_step for trial in plan.trials} == {4}
    names = {trial.technique() for trial in plan.trials}
    assert names >= {"none", "optimizer=adamw8bit", "offload=weights", "weights_dtype=bfloat16", "micro_batch=1"}
    assert len({trial.id for trial in plan.trials}) == len(plan.trials) == 3 * len(names)
