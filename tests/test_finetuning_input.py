"""Bad input of a fine-tuning recipe: what its user reads, by the way that `run` takes before anything is measured."""

import json

import pytest
from tests.adapted import decoder_of
from typer.testing import CliRunner

from efficientllm.bench.distinct import read_text
from efficientllm.cli.main import build_app
from efficientllm.data.locate import locate_model
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import checkpoint
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import recipe_from_text

RECIPE = """workload: finetune
corpus: {corpus}
vocab_tokens: 320
heldout_tokens: 512
repeats: 1
tokens: 1024
sequence_tokens: 64
heldout_samples: 4
{more}
"""
CONFIG = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}


def notes_of(text, more):
    """Read what a recipe names, as `run` does; return what its user is told."""
    (trial,) = expand(recipe_from_text(RECIPE.format(corpus=text / "corpus", more=more), "a.yaml"), "cpu").trials
    return read_text(trial.settings, text / "cache")


@pytest.fixture
def data(tmp_path):
    """Return what writes instruction data and returns its path."""

    def write(response, prompt="What follows {}?", count=120):
        lines = [json.dumps({"prompt": prompt.format(n), "response": response}) for n in range(count)]
        (tmp_path / "data.jsonl").write_text("\n".join(lines))
        return tmp_path / "data.jsonl"

    return write


def refused(call, *given):
    with pytest.raises((UserError, Unsupported)) as caught:
        call(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_instructions_of_a_recipe_may_be_the_path_of_their_data(text, data):
    assert notes_of(text, f"instructions: {data('It is so.')}") == []


def test_data_without_responses_says_that_none_has_one_and_where(text, data):
    said = refused(notes_of, text, f"instructions: {data('')}")
    assert "data.jsonl have no held-out sample with a response: 120 that were read have none." in said


def test_responses_longer_than_a_row_are_cut_and_counted_before_the_run(text, data):
    notes = notes_of(text, f"instructions: {data('It is so. ' * 90)}")
    assert len(notes) == 2 and all("data.jsonl" in note for note in notes)
    assert "training samples" in notes[0] and "of 4 held-out samples 4 are cut at 64 tokens, 0 left out" in notes[1]
    said = refused(notes_of, text, f"instructions: {data('It is so.', prompt='What follows {0}? ' * 90)}")
    assert "no held-out sample leaves room for a response in sequence_tokens 64. Raise it" in said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("instructions: ./nothing.jsonl", "instructions './nothing.jsonl': no such file or folder"),
        (
            "instructions: ./my_reader.py",
            "instructions './my_reader.py' in a.yaml: stages.finetune.instructions: no such",
        ),
        (
            "method: ./adapter/adapter_confg.json",
            "no such file. Did you mean 'adapter_config.json'? Give a .py file, an",
        ),
        ("method: ./adaptr", "method './adaptr' in a.yaml: stages.finetune.method: no such file. Give"),
        (
            "method: ./empty",
            "method './empty' in a.yaml: stages.finetune.method: the folder holds no adapter_config.json",
        ),
        (
            "method: ./weights.bin",
            "weights.bin' in a.yaml: stages.finetune.method: the file ends with none of .py, .json",
        ),
        ("base_precision: ./nf.py", "precision './nf.py' in a.yaml: stages.finetune.base_precision: no such file"),
        (
            "base_precision: ./adapter",
            "base_precision: a folder, where a file is wanted. Give a .py file, or one of: bf16",
        ),
        ("model: ./modl", "model './modl': no such folder. Did you mean 'model'? Give"),
        ("model: ./weights.bin", "model './weights.bin': a file, where a folder is wanted"),
        ("model: ./empty", "model './empty': the folder holds no config.json. Give"),
        ("model: ./adapter", "model './adapter': the folder holds an adapter and no config.json"),
        ("model: ./model", "model folder 'model' has no chat template"),
    ],
)
def test_a_path_that_leads_to_nothing_of_use_says_what_was_looked_for(more, says, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, name, content in (("adapter", "adapter_config.json", CONFIG), ("model", "config.json", {})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(json.dumps(content))
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"")
    said = refused(notes_of, text, more)
    assert says in said


def test_a_model_of_another_family_is_named_with_its_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert locate_model(str(tmp_path)) == tmp_path
    said = refused(checkpoint.load, tmp_path)
    assert said.startswith(f"{tmp_path}: model_type 'gpt2' is none of the families")


@pytest.mark.parametrize(
    ("words", "says"), [({"target_modules": ["c_attn"]}, "no layer is called 'c_attn'"), ({"r": 4000}, "rank 4000 is")]
)
def test_an_adapters_configuration_that_does_not_fit_is_named_with_the_model_that_it_was_made_for(
    words, says, tmp_path
):
    from efficientllm import registry

    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**CONFIG, **words, "base_model_name_or_path": "openai/gpt2"}))
    said = refused(registry.load("method", str(path)).attach, decoder_of())
    assert said.startswith(f"{path}: {says}") and said.endswith("It was made for openai/gpt2.")


def test_check_says_what_it_looked_for(tmp_path):
    def said(address):
        return str(CliRunner().invoke(build_app(), ["check", address]).exception)

    assert "Did you mean 'lora'?" in said("lorra") and "Did you mean 'nf4'?" in said("nf") and "jsonl" in said("zzz")
    assert "no such file" in said("./my_method.py") and "no such file" in said(str(tmp_path / "adapter_config.json"))
    assert "the folder holds no adapter_config.json" in said(str(tmp_path))


def test_the_command_line_prints_it_as_one_line_and_measures_nothing(text, tmp_path):
    recipe = tmp_path / "a.yaml"
    recipe.write_text(RECIPE.format(corpus=text / "corpus", more="model: ./nowhere\nprotocol: smoke"))
    done = CliRunner().invoke(build_app(), ["run", str(recipe), "--results", str(tmp_path / "results")])
    assert str(done.exception).startswith("model './nowhere': no such folder.")
    assert not list((tmp_path / "results").rglob("measurements/*.json"))
