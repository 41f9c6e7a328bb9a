"""Checkpoints: what is saved comes back bit for bit, a run that goes on is the run that was never stopped."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from safetensors import safe_open

from efficientllm import catalog
from efficientllm.data.prepare import prepare
from efficientllm.devices.choose import open_device
from efficientllm.errors import ResultsError, Unsupported
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings
from efficientllm.training import tensor_file
from efficientllm.training.checkpoint import CURVE, STATE, Checkpoints
from efficientllm.training.curve_log import CurveLog
from efficientllm.training.loop import TrainLoop
from efficientllm.training.loop_state import OPTIMIZER, WEIGHTS

SMALL = {"num_layers": 2, "width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
BIASED = Choice(name="moe", options={"balance": "bias", "bias_speed": 0.05, "aux_loss": 0.1})
ORIGIN = {"trial": "t", "environment": "e", "corpus": "c"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with a corpus and a cache for its tokens."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "corpus").mkdir()
    for i in range(12):
        lines = (f"line {j} of text {i}: the {j * i % 7} quick foxes jump over {j % 5} lazy dogs\n" for j in range(120))
        (folder / "corpus" / f"{i:02}.txt").write_text("".join(lines))
    return folder


def loop_of(text, mlp="dense", **more):
    choice = mlp if isinstance(mlp, Choice) else Choice(name=mlp)
    fields = {"tokens": 64 * 10, "micro_batch": 2, "sequence_tokens": 32, "heldout_tokens": 256, "vocab_tokens": 320}
    settings = PretrainSettings(
        shape=SMALL, mlp=choice, corpus=Choice(name=str(text / "corpus")), **{**fields, "learning_rate": 3e-3, **more}
    )
    prepared = prepare(settings, text / "cache", settings.tokens)
    decoder = build_decoder(settings, vocab_tokens=320, seed=0, device="cpu")
    return TrainLoop(decoder, settings, prepared.train, open_device("cpu"), 0)


def steps(loop, count, log=None):
    """Take steps; return loss and what was watched of each."""
    seen = []
    for _ in range(count):
        loss = loop.step()
        seen.append((loss, dict(loop.watched)))
        if log is not None:
            log.add("loss", "nats/token", loss)
    return seen


def state_of(loop):
    """Return every tensor and number that a loop has."""
    found = dict(loop.decoder.named_parameters()) | dict(loop.decoder.named_buffers())
    for name, parameter in loop.decoder.named_parameters():
        for key, value in loop.optimizer.state.get(parameter, {}).items():
            found[f"{name}/{key}"] = torch.as_tensor(value)
    return found, [{k: v for k, v in g.items() if k != "params"} for g in loop.optimizer.param_groups]


def same(one, other):
    (ours, our_groups), (theirs, their_groups) = state_of(one), state_of(other)
    assert ours.keys() == theirs.keys() and our_groups == their_groups
    return all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


CASES = {
    "dense": {},
    "moe with a loss": {"mlp": "moe"},
    "moe with a bias": {"mlp": BIASED},
    "accumulation": {"micro_batch": 1, "accumulation": 2, "mlp": BIASED},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16 throughout": {"dtype": "bfloat16", "weights_dtype": "bfloat16", "mlp": BIASED},
    "layers computed again": {"activation_checkpointing": "full"},
}
OPTIMIZERS = {f"optimizer {name}": {"optimizer": Choice(name=name)} for name in catalog.names("optimizer")}


@pytest.mark.parametrize("case", [*CASES, *OPTIMIZERS])
def test_a_loop_that_goes_on_from_a_checkpoint_is_the_loop_that_never_stopped(text, tmp_path, case):
    how = {**CASES, **OPTIMIZERS}[case]
    try:
        whole = loop_of(text, **how)
    except Unsupported as reason:
        pytest.skip(str(reason))
    undisturbed = steps(whole, 10)
    stopped, log, checkpoints = loop_of(text, **how), CurveLog(), Checkpoints(tmp_path / "kept", ORIGIN)
    before = steps(stopped, 4, log)
    told = checkpoints.save(stopped, log)
    torch.rand(7)  # whoever draws in between
    fresh, again = loop_of(text, **how), CurveLog()
    found = Checkpoints(tmp_path / "kept", ORIGIN).find()
    checkpoints.load(found.state, fresh, again)
    assert same(fresh, stopped)
    assert found.state.files == told.files and told.num_bytes > 2 * 3 * 10_000
    assert list(again) == list(log) and len(list(log)) == 4
    assert fresh.steps_done == 4 and fresh.first_loss == before[0][0]
    assert before + steps(fresh, 6) == undisturbed
    assert same(fresh, whole)


def test_buffers_that_no_model_file_holds_come_back_and_so_does_the_state_of_chance(text, tmp_path):
    stopped = loop_of(text, BIASED)
    steps(stopped, 3)
    Checkpoints(tmp_path, ORIGIN).save(stopped, CurveLog())
    expected = torch.rand(3)
    counts = stopped.decoder.block(0).mlp.counters.clone()
    fresh = loop_of(text, BIASED)
    checkpoints = Checkpoints(tmp_path, ORIGIN)
    checkpoints.load(checkpoints.find().state, fresh, CurveLog())
    assert counts.sum() > 0 and torch.equal(fresh.decoder.block(0).mlp.counters, counts)
    assert fresh.decoder.block(0).mlp.router.bias.any()
    assert torch.equal(torch.rand(3), expected)


def test_the_files_are_safetensors_and_json_that_others_read(text, tmp_path):
    loop = loop_of(text)
    steps(loop, 1)
    Checkpoints(tmp_path, ORIGIN).save(loop, CurveLog())
    (folder,) = tmp_path.iterdir()
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        assert torch.equal(file.get_tensor("embed.weight"), loop.decoder.embed.weight)
    assert json.loads((folder / STATE).read_text())["step"] == 1
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
