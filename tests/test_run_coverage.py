"""architecture/coverage, small: what is refused, what is wrong, what kills its process, and that the rest goes on."""

import json
import subprocess
import sys

import pytest
import torch

from efficientllm.models.build import build_decoder, unsupported_reason
from efficientllm.models.mixers.gqa import GroupedQueryAttention
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import VerifySettings
from efficientllm.store.folder import Study
from efficientllm.workloads.verify import forward_errors, through_references

MINE = '''"""Grouped-query attention that can be made to fail."""
import os
from dataclasses import replace

import torch

from efficientllm import registry
from efficientllm.models.mixers.gqa import GroupedQueryAttention


class Mine(GroupedQueryAttention):
    def forward(self, *inputs, **named):
        out = super().forward(*inputs, **named)
        if self.mode == "raise":
            raise RuntimeError("out of ideas")
        return out * (1.01 if self.mode == "wrong" else 1.0)


def build(shape, mode=""):
    if mode == "die":
        os._exit(9)
    if torch.get_default_device().type != "meta":
        with open("pids.txt", "a") as file:
            file.write(f"{mode} {os.getpid()}\\n")
    mixer = Mine(shape)
    mixer.mode = mode
    return mixer


ENTRY = replace(registry.load("mixer", "gqa"), build=build)
'''
MODES = ("first", "wrong", "second", "die", "third", "raise", "last")
SETTINGS = ["corpus=./text", "heldout_tokens=256", "vocab_tokens=320", "sequence_tokens=32", "position=[rope]",
            "mlp=[dense]"]  # fmt: skip
SHAPE = {"num_layers": 2, "width": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "mlp_width": 96}


def run(*words, cwd):
    command = [sys.executable, "-m", "efficientllm.cli.main", "run", "architecture/coverage", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def stored(folder):
    return {m.trial.axes["mixer"]: m for m in Study(folder / "results", "architecture-coverage").read_all()[0]}


def shape(**more):
    return f"shape={json.dumps({**SHAPE, **more})}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coverage")
    (folder / "text").mkdir()
    for i in range(12):
        lines = (f"line {j} of text {i}: the {j * i % 7} quick foxes jump over {j % 5} lazy dogs\n" for j in range(60))
        (folder / "text" / f"{i:02}.txt").write_text("".join(lines))
    (folder / "mine.py").write_text(MINE)
    return folder


@pytest.fixture(scope="module")
def covered(folder):
    """The records of one run over a mixer that behaves in all ways, and its output."""
    mixers = ", ".join(f"{{name: ./mine.py, mode: {mode}}}" for mode in MODES)
    done = run(f"mixer=[mla, {mixers}]", shape(qk_norm=True), *SETTINGS, cwd=folder)
    return stored(folder), done


def of(covered, mode):
    return covered[0][f"mine(mode={mode})"]


def test_every_combination_has_its_outcome_and_the_study_goes_on(covered):
    outcomes = {mode: of(covered, mode).outcome for mode in MODES}
    assert outcomes == {**dict.fromkeys(MODES, "ok"), "wrong": "invalid", "die": "crashed", "raise": "crashed"}
    assert covered[1].returncode == 1, covered[1].stdout + covered[1].stderr
    assert "out of ideas" in of(covered, "raise").reason
    assert "exit code 9" in of(covered, "die").reason


def test_what_a_part_refuses_is_stored_with_its_reason_and_no_worker(covered):
    refused = covered[0]["mla"]
    assert refused.outcome == "unsupported"
    assert "qk_norm" in refused.reason
    assert not refused.windows and not refused.phases_s and not refused.figures
    table = " ".join(covered[1].stdout.split())
    assert table.index("mine(mode=last) dense rope") < table.index("mla dense rope unsupported: mla normalises")


def test_trials_share_a_process_until_one_leaves_it_in_doubt(covered, folder):
    assert covered
    lines = (line.split() for line in (folder / "pids.txt").read_text().splitlines())
    pids = dict(lines)
    assert pids["first"] == pids["wrong"] == pids["second"]
    assert pids["second"] != pids["third"] == pids["raise"] != pids["last"]


def test_each_trial_has_figures_windows_and_memory_of_its_own(covered):
    for mode in ("first", "second", "third", "last"):
        record = of(covered, mode)
        names = [window.name for window in record.windows]
        assert names == ["verify", "train", "decode"]
        assert all(0 < value < 1e-4 for key, value in record.find("verify").figures.items() if "error" in key)
        assert record.trial.protocol.shared_process
        assert record.figures["memory_baseline_bytes"] > 0
        assert 0 <= record.find("verify").begin_s < record.find("decode").end_s < 60


def test_an_error_above_its_bound_is_invalid_and_named(covered):
    wrong = of(covered, "wrong")
    assert "reference_error_ratio" in wrong.reason and "gradient_error_ratio" in wrong.reason
    assert wrong.find("verify").outcome == "invalid"
    assert 1e-3 < wrong.find("verify").figures["reference_error_ratio"] < 0.1


def test_the_plan_says_what_is_unsupported_before_anything_runs(folder, tmp_path):
    (tmp_path / "text").symlink_to(folder / "text")
    done = run("mixer=[gqa,mla]", shape(qk_norm=True), *SETTINGS, "--dry-run", "--json", cwd=tmp_path)
    reasons = {row["axes"]["mixer"]: row["unsupported"] for row in json.loads(done.stdout)}
    assert reasons["gqa"] == ""
    assert "qk_norm" in reasons["mla"]
    shown = run("mixer=[gqa,mla]", shape(qk_norm=True), *SETTINGS, "--dry-run", cwd=tmp_path).stdout
    assert "2 trials, 1 to measure" in shown
    assert "unsupported: verify mla rope dense: mla normalises" in shown
    assert not (tmp_path / "results" / "architecture-coverage").exists()


def test_wrong_use_of_a_part_stops_the_run_before_anything_is_measured(folder, tmp_path):
    (tmp_path / "text").symlink_to(folder / "text")
    done = run("mixer=[gqa, {name: mla, rnk: 4}]", shape(), *SETTINGS, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("Known: latent_rank, nope_dim, rope_dim.")
    assert not stored(tmp_path)


def test_a_reason_is_what_the_parts_say_and_empty_where_they_go_together():
    assert unsupported_reason(ModelSettings(mixer=Choice(name="mla")), 512) == ""
    assert "qk_norm" in unsupported_reason(ModelSettings(mixer=Choice(name="mla"), shape={"qk_norm": True}), 512)


class Doubled(GroupedQueryAttention):
    """A mixer whose fast path is at fault at one token in four."""

    def forward(self, *inputs, **named):
        out = super().forward(*inputs, **named)
        return torch.cat([out[:, :24], 2 * out[:, 24:]], dim=1)


def test_a_fault_at_some_tokens_is_seen_in_both_precisions_and_parts_are_left_as_they_were():
    settings = VerifySettings(shape=SHAPE, dtype="bfloat16", sequence_tokens=32)
    decoder = build_decoder(settings, vocab_tokens=320, seed=1, device="cpu")
    rows_BT = torch.randint(320, (2, 33), generator=torch.Generator().manual_seed(1))
    sound = forward_errors(decoder, settings, rows_BT)
    assert sound["reference_error_ratio"] < 1e-5 and sound["gradient_error_ratio"] < 1e-5
    assert 1e-4 < sound["low_precision_error_ratio"] < settings.low_precision_bound
    for block in decoder.blocks:
        block.mixer.__class__ = Doubled
    faulty = forward_errors(decoder, settings, rows_BT)
    assert faulty["reference_error_ratio"] > settings.error_bound
    assert faulty["gradient_error_ratio"] > settings.error_bound
    assert faulty["low_precision_error_ratio"] > settings.low_precision_bound
    decoder.block(0).mlp.reference = lambda x_BTD: decoder.block(0).mlp(x_BTD)  # a part that is its own reference
    with through_references(decoder):
        decoder(rows_BT)
        assert "forward" in vars(decoder.block(0).mixer)
    assert "forward" not in vars(decoder.block(0).mixer)
    assert all(parameter.grad is None for parameter in decoder.parameters())
