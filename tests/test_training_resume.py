"""Checkpoints: what is saved comes back bit for bit, a run that goes on is the run that was never stopped."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from tests.fragile_runs import Fragile, curve_of, write_corpus
from tests.sharded_runs import STEPS, go_on, loop_of

from efficientllm import catalog
from efficientllm.bench.assemble import sort_out
from efficientllm.bench.job import JobFile
from efficientllm.bench.worker import run_job
from efficientllm.devices.choose import open_device
from efficientllm.errors import ResultsError, Unsupported
from efficientllm.meters.marks import Marks
from efficientllm.records import events
from efficientllm.records.choice import Choice
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.trial import make_trial
from efficientllm.store.folder import Study
from efficientllm.training.checkpoint import CURVE, STATE, Checkpoints
from efficientllm.training.curve_log import CurveLog
from efficientllm.training.flatten import plain_tensors
from efficientllm.training.loop_state import OPTIMIZER, WEIGHTS

BIASED = Choice(name="moe", options={"balance": "bias", "bias_speed": 0.05, "aux_loss": 0.1})
ORIGIN = {"trial": "t", "environment": "e", "corpus": "c"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with a corpus and a cache for its tokens."""
    folder = tmp_path_factory.mktemp("text")
    write_corpus(folder / "corpus")
    return folder


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
            found |= dict(plain_tensors(f"{name}/{key}", torch.as_tensor(value)))
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


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """A folder of runs, with one that nobody disturbed."""
    runs = Fragile(tmp_path_factory.mktemp("fragile"))
    runs.plan()
    assert runs.call("calm").outcome == "ok"
    return runs


def test_a_run_that_is_killed_at_every_turn_ends_as_the_run_that_was_not(fragile):
    (calm,) = fragile.stored("calm")
    assert calm.figures["num_checkpoints"] >= 4 and not fragile.checkpoints("calm")
    fragile.plan("pass 13", "sync 3", "ctrl-c 5", "runner 3")
    first = fragile.call("killed")
    assert first.outcome == "crashed" and "SIGKILL" in first.reason and "resumed_step" not in first.figures
    assert fragile.checkpoints("killed") == ["step-00000008", "step-00000012"]
    second = fragile.call("killed")
    assert second.outcome == "crashed" and second.figures["resumed_step"] == 12
    assert any(name.startswith(".draft") for name in fragile.checkpoints("killed"))
    with pytest.raises(KeyboardInterrupt):
        fragile.call("killed")
    assert fragile.call_apart("killed") == -signal.SIGKILL
    records = len(fragile.stored("killed"))
    done = fragile.call("killed")
    assert done.outcome == "ok", done.reason
    assert len(fragile.stored("killed")) == records + 1 == 4  # who kills the runner leaves no record
    assert Study(fragile.results, "killed").done(done.trial.id, done.environment.id) == done
    assert curve_of(done) == curve_of(calm)
    assert (
        done.find("quality").figures["heldout_nats_per_token"] == calm.find("quality").figures["heldout_nats_per_token"]
    )
    step = done.figures["resumed_step"]
    assert 12 <= step < 24 and f"went on at step {step:.0f}" in {c.code: c.text for c in done.cautions}["resumed"]
    assert len(done.find("train").find("step_s").values) <= 24 - step
    assert {"checkpoint_s", "checkpoint_bytes", "num_checkpoints"} <= calm.figures.keys()
    assert not fragile.checkpoints("killed")


def test_ranks_that_hold_shares_go_on_exactly_and_another_number_of_them_too(text):
    steps(loop_of(text), 1)  # fills the cache
    program = Path(__file__).with_name("sharded_runs.py")
    ranks = [subprocess.Popen([sys.executable, program, text, str(rank), "2"]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    first, second = (json.loads((text / f"rank-{rank}.json").read_text()) for rank in range(2))
    for mlp in ("dense", "moe"):
        undisturbed, resumed = first[mlp]
        assert resumed == undisturbed and second[mlp] == first[mlp] and len(resumed) == STEPS
        alone = [loss for loss, _ in steps(loop_of(text, mlp), STEPS)]
        assert undisturbed == pytest.approx(alone, rel=1e-4)
    folder = text / "sharded-moe" / "step-00000004"
    assert {path.name for path in (folder / "shards").iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert go_on(text, text / "sharded-moe", "moe") == pytest.approx(first["moe"][0], rel=1e-4)
    finally:
        dist.destroy_process_group()
    refused = Checkpoints(text / "sharded-moe", {"trial": "sharded"}).find()
    assert refused.state is None and "2 rank(s), sharded, and here is a single process" in refused.refused[0]


@pytest.fixture
def three(text, tmp_path):
    """A folder in which checkpoints of steps 1, 2 and 3 were saved."""
    loop, checkpoints = loop_of(text), Checkpoints(tmp_path, ORIGIN)
    for _ in range(3):
        steps(loop, 1)
        checkpoints.save(loop, CurveLog())
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "torn: weights.safetensors has": lambda folder: cut(folder / WEIGHTS),
    "torn: optimizer.safetensors is missing": lambda folder: (folder / OPTIMIZER).unlink(),
    "damaged: curve.safetensors": lambda folder: flip(folder / CURVE),
    "cannot be read": lambda folder: (folder / STATE).unlink(),
    "cannot be read: Input data was truncated": lambda folder: cut(folder / STATE),
}


@pytest.mark.parametrize("says", DAMAGE)
def test_a_torn_checkpoint_is_refused_with_the_reason_and_the_older_one_serves(three, says):
    assert sorted(path.name for path in three.iterdir()) == ["step-00000002", "step-00000003"]
    (three / ".draft-00000004").mkdir()
    DAMAGE[says](three / "step-00000003")
    found = Checkpoints(three, ORIGIN).find()
    assert found.state.step == 2
    assert len(found.refused) == 1 and "step 3" in found.refused[0] and says in found.refused[0]
    assert [path.name for path in three.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("name", ["trial", "environment", "corpus", "tokenizer"])
def test_a_checkpoint_of_something_else_is_refused(three, name):
    found = Checkpoints(three, {**ORIGIN, name: "another"}).find()
    assert found.state is None and len(found.refused) == 2
    assert all(f"belongs to another {name}" in line for line in found.refused)


def test_a_full_disk_leaves_the_older_checkpoints_and_no_draft(text, three, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    loop = loop_of(text)
    steps(loop, 4)
    monkeypatch.setattr("efficientllm.training.tensor_file.os.fsync", full)
    with pytest.raises(ResultsError, match=r"no checkpoint of step 4: .*No space left"):
        Checkpoints(three, ORIGIN).save(loop, CurveLog())
    assert sorted(path.name for path in three.iterdir()) == ["step-00000002", "step-00000003"]


class Scaled(torch.Tensor):
    """Numbers in 8 bits with a scale: a tensor subclass with parts, as low-bit optimisers keep."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, context, size, stride):
        return cls(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called: a part was not copied by itself")


class Coarse(torch.optim.Optimizer):
    """Momentum in 8 bits, and a count in the group; steps are rounded by chance."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.05, "count": 0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["count"] += 1
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    codes = torch.zeros(parameter.shape, dtype=torch.int8)
                    state |= {"momentum": Scaled(codes, torch.ones(())), "steps": 0}
                kept = state["momentum"]
                momentum = 0.9 * kept.codes * kept.scale + parameter.grad + 1e-4 * torch.rand(parameter.shape)
                kept.scale.copy_(momentum.abs().max() / 127)
                kept.codes.copy_((momentum / kept.scale).round())
                state["steps"] += 1
                parameter -= group["lr"] / (1 + 0.1 * group["count"]) / state["steps"] * momentum


@pytest.mark.parametrize("kind", ["subclass", "optimizer on the host", "weights on the host"])
def test_an_optimizer_with_a_mind_of_its_own_goes_on_exactly(text, tmp_path, kind):
    def loop():
        if kind != "subclass":
            return loop_of(text, offload=kind.split()[0])
        made = loop_of(text)
        made._optimizer = Coarse(made.decoder.parameters())
        return made

    torch.manual_seed(1)
    stopped = loop()
    steps(stopped, 4)
    Checkpoints(tmp_path, ORIGIN).save(stopped, CurveLog())
    rest = steps(stopped, 6)
    fresh, checkpoints = loop(), Checkpoints(tmp_path, ORIGIN)
    checkpoints.load(checkpoints.find().state, fresh, CurveLog())
    assert steps(fresh, 6) == rest
    assert len(stopped.optimizer.state) == len(fresh.optimizer.state)
    with stopped.at_rest(), fresh.at_rest():
        assert all(map(torch.equal, fresh.decoder.parameters(), stopped.decoder.parameters()))


def test_what_no_checkpoint_can_hold_is_said(text, tmp_path):
    loop = loop_of(text)
    steps(loop, 1)
    loop.optimizer.state[loop.decoder.embed.weight]["past"] = [torch.zeros(1)]
    with pytest.raises(Unsupported, match=r"optimizer adamw remembers past as a list.*checkpoint_every 0"):
        Checkpoints(tmp_path, ORIGIN).save(loop, CurveLog())
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused_by_name(text, three):
    wider = loop_of(text, "moe")
    checkpoints = Checkpoints(three, ORIGIN)
    with pytest.raises(ResultsError, match=r"Delete .*step-00000003"):
        checkpoints.load(checkpoints.find().state, wider, CurveLog())


def test_a_disk_that_takes_no_checkpoint_costs_the_run_nothing_but_its_checkpoints(text, tmp_path):
    settings = loop_of(text, checkpoint_every=3).settings
    trial = make_trial(settings=settings, protocol=PROTOCOLS["smoke"], device="cpu", seed=0, repeat=0)
    (tmp_path / "file").write_text("a file where a folder is wanted")
    marks = Marks(tmp_path / "events.jsonl", open_device("cpu"), trial.protocol)
    job = JobFile(trial=trial, cache=str(text / "cache"), threads=1, checkpoints=str(tmp_path / "file" / "kept"))
    end = run_job(job, marks, marks.device)
    marks.close()
    told = sort_out(events.decode_events((tmp_path / "events.jsonl").read_bytes())[0])
    assert end.outcome == "ok", end
    (caution,) = (c for c in told.cautions if c.code == "no_checkpoint")
    assert "Not a directory" in caution.text and "went on" in caution.text
    assert sum(len(part.values) for part in told.series[0, "loss", 0]) == STEPS
    assert "num_checkpoints" not in told.figures[-1]
