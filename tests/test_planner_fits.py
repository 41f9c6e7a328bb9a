"""What fits into a device, what would make it fit, and what a run does with a trial that by prediction does not."""

import json
import subprocess
import sys

import pytest
from msgspec.structs import replace
from tests.saved_tensors import settings_of

from efficientllm.bench.forecast import Outlook, forecasts, not_tried, too_large
from efficientllm.bench.study import open_run
from efficientllm.planner.fits import available_bytes, remedy
from efficientllm.planner.predict import predict_training
from efficientllm.recipes.load import load_recipe
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.examples import example_measurement
from efficientllm.records.prediction import MemoryPrediction
from efficientllm.records.protocol import Protocol
from efficientllm.records.trial import make_trial

GB, QWEN = 1e9, 151_936


def run_of(size="0.5b", **more):
    more = {"micro_batch": 8, "sequence_tokens": 2048, "compile": True, **more}
    return settings_of(more.pop("mixer", "gqa"), more.pop("mlp", "dense"), size=size, **more)


def needs(settings):
    return predict_training(settings, QWEN, "cuda").peak_bytes


def device(capacity_gb, kind="cuda"):
    return DeviceInfo(kind=kind, name="x", uuid="0", capacity_bytes=int(capacity_gb * GB))


def test_eight_experts_of_1_5b_fit_into_a_large_card_in_pure_bf16_and_not_into_80_gb():
    pure = settings_of(mlp="moe", size="1.5bx8", weights_dtype="bfloat16", micro_batch=1, sequence_tokens=2048)
    mixed = replace(pure, weights_dtype="float32")
    assert needs(pure) < available_bytes(141 * GB, "cuda") < needs(mixed)
    found = predict_training(mixed, QWEN, "cuda")
    assert too_large(found, device(80)) and not too_large(predict_training(pure, QWEN, "cuda"), device(141))


def test_the_reason_names_the_parts_and_what_weights_and_state_alone_take():
    reason = too_large(predict_training(run_of("72b"), QWEN, "cuda"), device(80))
    assert "predicted: needs" in reason and "weights" in reason and "activations" in reason
    assert "alone take" in reason


def test_a_run_is_only_given_up_by_a_clear_margin():
    need = needs(run_of())
    found = predict_training(run_of(), QWEN, "cuda")
    assert not too_large(found, device(need / 1.04 / GB))
    assert too_large(found, device(need / 1.06 / GB))
    assert not too_large(found, device(0))
    assert not too_large(MemoryPrediction(why_not="unknown"), device(1))


@pytest.mark.parametrize(
    ("more", "lever"),
    [
        ({}, "micro_batch=4 global_batch=8"),
        ({"micro_batch": 3}, "activation_checkpointing=selective"),
        ({"micro_batch": 3, "activation_checkpointing": "full"}, "optimizer=adamw8bit"),
    ],
    ids=str,
)
def test_the_first_lever_that_is_enough_is_proposed(more, lever):
    settings = run_of("1.5b", **more)
    assert remedy(settings, QWEN, "cuda", 0.9 * needs(settings) + 512 * 1024**2) == lever


def test_every_proposed_lever_fits_by_the_same_counts():
    settings = run_of("7b")
    room = available_bytes(80 * GB, "cuda")
    found = remedy(settings, QWEN, "cuda", 80 * GB)
    changes = dict(word.split("=") for word in found.split())
    numbers = {key: int(value) if value.isdecimal() else value for key, value in changes.items() if key != "optimizer"}
    changed = replace(settings, **numbers)
    if "optimizer" in changes:
        changed = replace(changed, optimizer=type(settings.optimizer)(name=changes["optimizer"]))
    assert changed.rows_per_step == settings.rows_per_step
    assert needs(changed) <= room < needs(settings)


def test_where_nothing_helps_nothing_is_proposed():
    assert remedy(run_of("72b"), QWEN, "cuda", 1 * GB) == ""
    assert "offload" not in remedy(run_of("3b"), QWEN, "cpu", 24 * GB)


@pytest.fixture
def planned(tmp_path):
    """Two trials, of which one is far too large, with their predictions."""
    trials = [
        make_trial(settings=run_of(size, micro_batch=1, vocab_tokens=512), device="cuda", stage="pretrain", seed=0,
                   repeat=0, protocol=Protocol())
        for size in ("tiny", "72b")
    ]  # fmt: skip
    environments = {trial.id: example_measurement().environment for trial in trials}
    return trials, environments, tmp_path


def test_trials_are_forecast_by_a_process_and_the_answers_kept(planned, monkeypatch):
    trials, environments, cache = planned
    first = forecasts(trials, environments, device(80), cache)
    assert first[trials[0].id].peak_bytes < GB < 80 * GB < first[trials[1].id].peak_bytes
    monkeypatch.setattr(subprocess, "run", None)  # no second process is started
    assert forecasts(trials, environments, device(80), cache) == first


def test_what_cannot_fit_is_recorded_as_predicted_and_measured_where_one_insists(planned):
    trials, environments, cache = planned
    outlook = Outlook(device(80), cache, tries_anyway=False)
    outlook.look(trials, environments)
    assert outlook.reason(trials[0]) == ""
    reason = outlook.reason(trials[1])
    record = outlook.record(replace(example_measurement(), trial=trials[1], outcome="oom", reason=reason))
    assert not_tried(record) and record.figures["predicted_peak_bytes"] > 80 * GB
    assert outlook.takes(record) is record
    insisting = Outlook(device(80), cache, tries_anyway=True)
    insisting.look(trials, environments)
    assert insisting.reason(trials[1]) == "" and insisting.takes(record) is None
    assert insisting.takes(example_measurement()) is not None


def test_a_dry_run_tells_memory_and_a_run_stores_what_will_not_fit(tmp_path):
    command = ["from efficientllm.cli.main import main; main()", "run", "quickstart", "repeats=1", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", *command, "size=72b", "--json", "--results", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = json.loads(done.stdout.splitlines()[-1])
    training = [row for row in rows if row["stage"] == "pretrain"]
    assert training and all(row["predicted"]["predicted_peak_bytes"] > 1e11 for row in training)
    assert all("predicted: needs" in row["does_not_fit"] for row in training)
    assert all("no checkpoint" in row["does_not_fit"] for row in rows if row not in training)
    run = open_run(load_recipe("quickstart", ["repeats=1", "size=72b"]), tmp_path, None)
    run.memory()
    blocked = {trial.stage: run._blocked(trial) for trial in run.plan.trials}
    assert blocked["pretrain"].outcome == "oom" and not_tried(blocked["pretrain"])
    run.measurements.extend(run._blocked(trial) for trial in run.plan.trials if trial.stage == "pretrain")
    child = run._blocked(run.plan.trials[-1])
    assert child.outcome == "oom" and not_tried(child) and "no checkpoint to start from" in child.reason
