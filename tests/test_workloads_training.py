"""The training loop: what it differentiates, reports and watches, and how it ends when a loss goes wrong."""

import math
import re

import pytest
import torch

from efficientllm.bench.job import JobFile
from efficientllm.bench.worker import run_job
from efficientllm.data.prepare import prepare
from efficientllm.devices.choose import open_device
from efficientllm.meters.marks import Marks
from efficientllm.models.build import build_decoder
from efficientllm.records import events
from efficientllm.records.choice import Choice
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.settings import PretrainSettings
from efficientllm.records.trial import make_trial
from efficientllm.training.loop import TrainLoop
from efficientllm.training.tokens import StepTokens
from efficientllm.workloads.quality import decoder_scorer

SMALL = {"num_layers": 2, "width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}


def settings_of(text, mlp="moe", **more):
    choice = mlp if isinstance(mlp, Choice) else Choice(name=mlp)
    fields = {"tokens": 64 * 20, "micro_batch": 2, "sequence_tokens": 32, "heldout_tokens": 256, "vocab_tokens": 320}
    fields |= {"learning_rate": 3e-3, **more}
    return PretrainSettings(shape=SMALL, mlp=choice, corpus=Choice(name=str(text / "corpus")), **fields)


def loop_of(text, mlp="moe", **more):
    settings = settings_of(text, mlp, **more)
    prepared = prepare(settings, text / "cache", settings.tokens)
    decoder = build_decoder(settings, vocab_tokens=320, seed=0, device="cpu")
    return TrainLoop(
        decoder,
        settings,
        StepTokens(prepared.train, settings, open_device("cpu").torch_device(), 0),
        open_device("cpu"),
    )


def run_trial(settings, text, folder):
    """Run a pretraining trial in this process; return its end, and window name -> series and figures."""
    trial = make_trial(settings=settings, protocol=PROTOCOLS["smoke"], device="cpu", seed=0, repeat=0)
    device = open_device("cpu")
    marks = Marks(folder / "events.jsonl", device, trial.protocol)
    end = run_job(JobFile(trial=trial, cache=str(text / "cache"), threads=1), marks, device)
    marks.close()
    said, _ = events.decode_events((folder / "events.jsonl").read_bytes())
    names = {e.window: e.name for e in said if isinstance(e, events.Opened)}
    series, figures = {}, {}
    for event in said:
        if isinstance(event, events.Values):
            series.setdefault((names[event.window], event.name), []).extend(event.values)
            assert event.unit != "ratio" or max(event.values) <= 1.0, f"{event.name}: physics takes a ratio for a share"
        elif isinstance(event, events.Figure):
            figures[names.get(event.window), event.name] = event.value
    closed = {names[e.window]: (e.outcome, e.reason) for e in said if isinstance(e, events.Closed)}
    return end, series, figures, closed


def test_the_auxiliary_loss_is_differentiated_and_not_reported(text):
    plain, aided = (loop_of(text, Choice(name="moe", options={"aux_loss": weight})) for weight in (0.0, 1.0))
    first = plain.step(), aided.step()
    assert first[0] == pytest.approx(first[1], rel=1e-6) == plain.first_loss
    assert abs(first[0] - math.log(320)) < 0.15
    assert aided.watched["auxiliary_loss", "nats/token"] >= 2 * 1.0  # two layers, each 1 at the least
    assert ("auxiliary_loss", "nats/token") not in plain.watched
    routers = [loop.decoder.block(0).mlp.router.linear.weight for loop in (plain, aided)]
    assert not torch.equal(*routers)


@pytest.mark.parametrize("mlp", ["dense", "moe"])
def test_accumulated_micro_batches_take_the_step_of_one_batch(text, mlp):
    # without a balance loss, which is not linear in the batch
    choice = Choice(name=mlp, options={"aux_loss": 0.0} if mlp == "moe" else {})
    whole = loop_of(text, choice, micro_batch=4)
    parts = loop_of(text, choice, micro_batch=1, accumulation=4)
    for _ in range(2):
        assert parts.step() == pytest.approx(whole.step(), rel=1e-5)
    for a, b in zip(parts.decoder.parameters(), whole.decoder.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-3)
    if mlp == "moe":
        tallies = [loop.decoder.block(1).mlp.load_tally() for loop in (parts, whole)]
        assert tallies[0].tokens == tallies[1].tokens and sum(tallies[0].tokens) == 2 * 2 * 4 * 32


def test_the_bias_moves_once_a_step(text):
    loop = loop_of(text, Choice(name="moe", options={"balance": "bias", "bias_speed": 0.5}), accumulation=2)
    loop.step()
    bias = loop.decoder.block(0).mlp.router.bias
    assert set(bias.abs().tolist()) <= {0.0, 0.5} and bias.any()


def test_a_dense_model_watches_nothing_and_its_loss_is_read_as_before(text):
    loop = loop_of(text, "dense")
    losses = [loop.step() for _ in range(3)]
    assert loop.watched == {} and losses[2] < losses[0]


def test_training_in_bfloat16_routes_and_learns(text):
    loop = loop_of(text, dtype="bfloat16")
    losses = [loop.step() for _ in range(15)]
    assert losses[-1] < losses[0] - 0.3
    assert all(p.dtype == torch.float32 for p in loop.decoder.parameters())


def test_a_record_says_how_evenly_the_experts_were_used(text, tmp_path):
    end, series, figures, _ = run_trial(settings_of(text), text, tmp_path)
    assert end.outcome == "ok", end
    train = {name: value for (window, name), value in figures.items() if window == "train"}
    for prefix in ("", "layer_00_", "layer_01_"):
        assert 1.0 <= train[f"{prefix}expert_load_max_ratio"] <= 8 / 2
        assert 0.0 <= train[f"{prefix}expert_load_cv_ratio"] < 8**0.5
        assert 0.0 <= train[f"{prefix}expert_idle_ratio"] < 1.0
        assert 0.0 < train[f"{prefix}router_entropy_nats"] <= math.log(8) + 1e-4
    assert train["expert_load_max_ratio"] == max(
        train[f"layer_{number:02}_expert_load_max_ratio"] for number in range(2)
    )
    assert "layer_02_expert_load_max_ratio" not in train
    losses, ratios = series["curve", "loss"], series["curve", "expert_load_max_ratio"]
    assert len(ratios) == len(losses) == len(series["curve", "auxiliary_loss"]) == 20
    assert all(1.0 <= ratio <= 8 / 2 for ratio in ratios)
    assert figures[None, "first_loss"] == losses[0]


FAULTY = '''"""A dense mlp whose result is not a number after six passes."""
from dataclasses import replace
from efficientllm import registry
DENSE = registry.load("mlp", "dense")
def build(shape):
    mlp = DENSE.build(shape)
    forward, calls = mlp.forward, []
    def wrong(x_BTD):
        calls.append(1)
        return forward(x_BTD) * (float("nan") if len(calls) > 6 else 1.0)
    mlp.forward = wrong
    return mlp
ENTRY = replace(DENSE, build=build)
'''


@pytest.mark.parametrize(
    ("cause", "what"), [("nan", "the loss became nan"), ("rate", r"the loss rose from 5\.\d+ to \d+\.\d+")]
)
def test_a_loss_that_goes_wrong_in_the_middle_ends_as_diverged_with_its_step_and_keeps_the_curve(
    cause, what, text, tmp_path
):
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY)
    faulty = settings_of(text, Choice(name="faulty", path=str(path)))
    settings = faulty if cause == "nan" else settings_of(text, learning_rate=3.0, warmup_ratio=0.5, clip_norm=0.0)
    end, series, figures, closed = run_trial(settings, text, tmp_path)
    assert end.outcome == "diverged"
    said = re.fullmatch(rf"{what} at step (\d+)", end.reason)
    assert said, end.reason
    assert int(said[1]) == 7 if cause == "nan" else int(said[1]) > 2
    assert len(series["curve", "loss"]) == int(said[1]) - 1
    assert all(math.isfinite(loss) for loss in series["curve", "loss"])
    assert closed["curve"][0] == "diverged" and end.reason in closed["curve"][1]
    assert (None, "tokens_fed") not in figures


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_compiled_layers_take_the_same_steps_and_are_compiled_once_for_all_layers(text, checkpointing):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = {"mlp": "dense", "activation_checkpointing": checkpointing}
    plain, compiled = loop_of(text, **settings), loop_of(text, compile=True, **settings)
    for _ in range(3):
        assert compiled.step() == pytest.approx(plain.step(), rel=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 1, f"{graphs} compilations of 2 layers that are alike"
    rows = torch.randint(0, 320, (3, 17))
    scored = [decoder_scorer(loop.decoder, loop.settings, loop.autocast)(rows) for loop in (plain, compiled)]
    assert scored[1][0] == pytest.approx(scored[0][0], rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "judging quality compiled anew"
