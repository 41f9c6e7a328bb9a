"""Recipes: read, overridden, refused with one line, and expanded in the right order."""

import hashlib

import msgspec
import pytest

from efficientllm.errors import RecipeError, UserError
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import load_recipe, recipe_from_text
from efficientllm.records.settings import Grid

PRETRAIN = "workload: pretrain\n"
TWO_STAGES = """
repeats: 2
baseline: {mixer: mha}
stages:
  - {name: train, workload: pretrain, axes: {mixer: [mha, mqa]}, dtype: bfloat16}
  - {name: infer, workload: inference, from: train, axes: {dtype: [float32, bfloat16]}}
"""


def plan(text, overrides=(), device="cpu"):
    return expand(recipe_from_text(text, "x.yaml", overrides=list(overrides)), device)


def test_a_one_stage_recipe_needs_no_stage():
    trials = plan(PRETRAIN + "axes: {mixer: [mha, gqa]}\nrepeats: 1").trials
    assert [trial.settings.mixer.name for trial in trials] == ["mha", "gqa"]


def test_axes_multiply_and_children_follow_their_parents():
    trials = plan(TWO_STAGES).trials
    assert len(trials) == 2 * (2 + 4)
    children = [trial for trial in trials if trial.parent]
    by_id = {trial.id: trial for trial in trials}
    assert all(by_id[child.parent].settings.mixer == child.settings.mixer for child in children)
    assert all(by_id[child.parent].seed == child.seed for child in children)
    assert children[0].technique() == "mha float32"


def test_a_round_passes_through_all_stages_before_the_next():
    trials = plan(TWO_STAGES).trials
    assert [trial.repeat for trial in trials] == [0] * 6 + [1] * 6
    assert [trial.stage for trial in trials[:3]] == ["train", "train", "infer"]


def test_latin_order_rotates_by_round_and_shuffled_keeps_the_cells():
    text = PRETRAIN + "axes: {mixer: [mha, gqa, mqa]}\nrepeats: 3\norder: "
    rounds = lambda order: [t.settings.mixer.name for t in plan(text + order).trials]  # noqa: E731
    assert rounds("latin") == ["mha", "gqa", "mqa", "gqa", "mqa", "mha", "mqa", "mha", "gqa"]
    assert rounds("shuffled") == rounds("shuffled")
    assert sorted(rounds("shuffled")[:3]) == ["gqa", "mha", "mqa"]


def test_what_a_setting_is_called_does_not_change_the_trial():
    first = plan(PRETRAIN + "repeats: 1").trials[0]
    other = plan("repeats: 1\nname: other\nstages: [{name: s, workload: pretrain}]").trials[0]
    changed = plan(PRETRAIN + "repeats: 1\ntokens: 5000").trials[0]
    assert first.id == other.id != changed.id


def test_a_setting_of_the_device_replaces_the_general_one():
    text = PRETRAIN + "tokens: 10\nper_device: {cuda: {tokens: 1000}}"
    assert plan(text, device="cpu").trials[0].settings.tokens == 10
    assert plan(text, device="cuda").trials[0].settings.tokens == 1000
    assert plan(text, ["tokens=7"], device="cuda").trials[0].settings.tokens == 7


def test_words_of_the_command_line_change_keys_settings_axes_and_the_protocol():
    recipe = load_recipe(
        "quickstart",
        [
            "repeats=1",
            "mixer=[mla]",
            "tokens=4096",
            "protocol.max_window_s=9",
            "baseline={}",
            "inference.dtype=bfloat16",
            "decode=[{batch: 2, tokens: 64}]",
        ],
    )
    trials = expand(recipe, "cpu").trials
    by_stage = {stage.name: [trial for trial in trials if trial.stage == stage.name] for stage in recipe.stages}
    (train,), tuned, (infer,) = (by_stage[name] for name in ("pretrain", "finetune", "inference"))
    assert {t.settings.mixer.name for t in tuned} == {"mla"} and len(tuned) == 4 and not any(t.baseline for t in tuned)
    assert (train.settings.mixer.name, train.settings.tokens, train.protocol.max_window_s) == ("mla", 4096, 9)
    assert (infer.settings.dtype, infer.settings.decode) == ("bfloat16", (Grid(batch=2, tokens=64),))
    assert train.settings.dtype == "float32"


def test_a_skip_leaves_out_its_combination_and_says_why():
    text = PRETRAIN + "repeats: 1\naxes: {mixer: [mha, mla]}\nskip: [{mixer: mla, because: too slow here}]"
    result = plan(text)
    assert [t.settings.mixer.name for t in result.trials] == ["mha"]
    assert result.skipped[0].because == "too slow here"


def test_yaml_1_2_numbers_are_numbers():
    assert plan(PRETRAIN + "learning_rate: 1e-4").trials[0].settings.learning_rate == 1e-4


def test_a_users_own_file_is_known_by_its_hash_not_its_path(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "mine.py", tmp_path / "a" / "mine.py"):
        path.write_text("ENTRY = 1\n")
    monkeypatch.chdir(tmp_path)
    one = plan(PRETRAIN + "mixer: ./mine.py").trials[0]
    same = plan(PRETRAIN + "mixer: a/mine.py").trials[0]
    assert one.settings.mixer.sha256 == hashlib.sha256(b"ENTRY = 1\n").hexdigest()
    assert one.id == same.id
    (tmp_path / "mine.py").write_text("ENTRY = 2\n")
    assert plan(PRETRAIN + "mixer: ./mine.py").trials[0].id != one.id


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("a: [1", [], r"x.yaml: line 1 is not YAML"),
        ("a: 1\na: 2", [], r"x.yaml: line 2 is not YAML: found duplicate key"),
        ("- a", [], r"x.yaml: expected keys and values"),
        (
            "workload: pretrian",
            [],
            r"unknown workload 'pretrian' in x.yaml: stages\[0\].workload. Did you mean 'pretrain'",
        ),
        ("tokens: 5", [], r"stages\[0\].workload: missing"),
        (PRETRAIN + "tokenz: 3", [], r"x.yaml: stages.pretrain.tokenz: unknown key. Did you mean 'tokens'\?"),
        (PRETRAIN + "tokens: -3", [], r"x.yaml: stages.pretrain.tokens: expected `int` >= 1; the value is -3"),
        (PRETRAIN + "tokens: many", [], r"stages.pretrain.tokens: expected `int`, got `str`; the value is 'many'"),
        (PRETRAIN + "tokens: 99999999999999999", [], r"stages.pretrain.tokens: expected `int` <="),
        (PRETRAIN + "learning_rate: .inf", [], r"stages.pretrain.learning_rate"),
        (PRETRAIN + "micro_batch: 0", [], r"stages.pretrain.micro_batch: expected `int` >= 1"),
        (PRETRAIN + "dtype: fp8", [], r"stages.pretrain.dtype: .*'fp8'"),
        (PRETRAIN + "mixer: mla2", [], r"unknown mixer 'mla2' in x.yaml: stages.pretrain.mixer. Did you mean 'mla'\?"),
        (PRETRAIN + "axes: {mixer: [mha, mla2]}", [], r"unknown mixer 'mla2'"),
        (PRETRAIN + "axes: {mixer: []}", [], r"axes.mixer: expected a list of at least one value"),
        (PRETRAIN + "axes: {mixer: [mha, mha]}", [], r"axes.mixer: a value stands twice"),
        (PRETRAIN + "mixer: mha\naxes: {mixer: [mha]}", [], r"stages.pretrain.mixer: is also an axis"),
        (PRETRAIN + "mixer: ./nowhere.py", [], r"mixer './nowhere.py' in x.yaml: stages.pretrain.mixer: no such file"),
        (PRETRAIN + "corpus: stdlb", [], r"unknown corpus 'stdlb' .*Did you mean 'stdlib'\?"),
        (PRETRAIN + "skip: [{mixer: mha}]", [], r"needs a `because`"),
        (PRETRAIN + "baseline: {mixer: mha}", [], r"baseline: no trial has mixer: mha"),
        (PRETRAIN + "repeats: 0", [], r"repeats: expected a whole number from 1"),
        (PRETRAIN + "order: random", [], r"order: 'random' is none of interleaved"),
        (PRETRAIN + "protocol: smok", [], r"unknown protocol 'smok' in x.yaml: protocol. Did you mean 'smoke'\?"),
        (PRETRAIN + "name: ../up", [], r"name: '../up' is no folder name"),
        (PRETRAIN, ["mixr=mha"], r"mixr: unknown key. Did you mean 'mixer'\?"),
        (PRETRAIN, ["tokens"], r"'tokens': expected key=value"),
        (PRETRAIN, ["tokens=[1"], r"tokens: line 1 is not YAML"),
        ("stages: []", [], r"stages: needs a list of at least one stage"),
        ("stages: [{workload: pretrain}, {workload: pretrain}]", [], r"two stages have this name"),
        ("stages: [{workload: inference, from: tran}]", [], r"from: no earlier stage 'tran'"),
        (TWO_STAGES + "    size: small", [], r"not YAML|comes with"),
    ],
)
def test_bad_input_gets_one_line_with_file_and_key(text, overrides, says):
    with pytest.raises(UserError, match=says) as caught:
        plan(text, overrides)
    assert "\n" not in str(caught.value)


def test_a_stage_that_takes_a_model_may_not_set_it():
    text = "stages: [{name: a, workload: pretrain}, {name: b, workload: inference, from: a, mixer: mqa}]"
    with pytest.raises(RecipeError, match=r"stages.b.mixer: comes with `from: a`"):
        plan(text)


def test_a_recipe_survives_being_written_and_read():
    recipe = load_recipe("quickstart")
    trials = expand(recipe, "cpu").trials
    again = msgspec.json.decode(msgspec.json.encode(trials), type=tuple[type(trials[0]), ...])
    assert again == trials


def test_a_grid_in_one_line_is_the_points_that_it_stands_for():
    short = "stages: [{workload: inference, grid: {batch: [1, 8], tokens: [32, 64], new_tokens: [4]}}]"
    points = "[{batch: 1, tokens: 32}, {batch: 1, tokens: 64}, {batch: 8, tokens: 32}, {batch: 8, tokens: 64}]"
    whole = points.replace("}", ", new_tokens: 4}")
    long = f"stages: [{{workload: inference, prefill: {points}, decode: {points}, generate: {whole}}}]"
    one, other = (expand(recipe_from_text(text, "g.yaml"), "cpu").trials[0] for text in (short, long))
    assert one.id == other.id  # however it is written, it is the same trial


def test_grids_of_their_own_for_each_kind_of_window_add_up():
    text = """
workload: inference
grid:
  - {batch: [1, 2], tokens: [32], windows: [decode]}
  - {batch: [1], tokens: [32, 64], windows: [prefill, decode]}
"""
    settings = expand(recipe_from_text(text, "g.yaml"), "cpu").trials[0].settings
    assert [(p.batch, p.tokens) for p in settings.decode] == [(1, 32), (2, 32), (1, 64)]
    assert [(p.batch, p.tokens) for p in settings.prefill] == [(1, 32), (1, 64)]
    assert settings.generate == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("grid: {batch: [1]}, decode: [{batch: 2, tokens: 8}]", "Give either it or them"),
        ("decode: [{batch: 2, tokens: 8}, {batch: 2, tokens: 8}]", "batch 2, tokens 8 stands twice"),
        ("grid: {batch: []}", r"grid"),
        ("grid: {batch: [1], windows: [decod]}", r"grid"),
    ],
)
def test_a_grid_that_says_nothing_clear_is_refused_with_its_key(given, said):
    with pytest.raises(RecipeError, match=said):
        expand(recipe_from_text(f"stages: [{{workload: inference, {given}}}]", "g.yaml"), "cpu")


AXES_ON = """
baseline: {mixer: mha}
stages:
  - workload: inference
    axes: {size: [0.5b, 7b], mixer: [mha, gqa]}
    per_device: {cpu: {vocab_tokens: 512, axes: {size: [tiny]}}}
"""


def test_an_axis_may_have_other_values_on_one_kind_of_device():
    sizes = {
        d: {t.settings.size for t in expand(recipe_from_text(AXES_ON, "a.yaml"), d).trials} for d in ("cpu", "cuda")
    }
    assert sizes == {"cpu": {"tiny"}, "cuda": {"0.5b", "7b"}}
    told = recipe_from_text(AXES_ON, "a.yaml", overrides=["size=1.5b"])
    assert {t.settings.size for t in expand(told, "cpu").trials} == {"1.5b"}  # a word holds on every device
    with pytest.raises(RecipeError, match=r"per_device.cpu.axes.dtype: unknown key"):
        recipe_from_text(AXES_ON.replace("{size: [tiny]}", "{dtype: [float32]}"), "a.yaml")


def test_what_an_axis_leaves_out_adds_no_word_to_a_rows_name():
    text = "{baseline: {cache: null}, stages: [{workload: inference, axes: {precision: [fp32, int4], cache: [null]}}]}"
    trials = expand(recipe_from_text(text, "n.yaml"), "cpu").trials
    assert [trial.technique() for trial in trials][:2] == ["fp32", "int4"]
    assert all(trial.baseline for trial in trials)
