"""A model named by its folder goes through the workload `inference`: its own shape, its own tokenizer, any engine."""

import json

import pytest
from tests.test_workloads_finetune import SMALL, run

from efficientllm.data.prepare import prepare
from efficientllm.errors import RecipeError
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import load_recipe
from efficientllm.records.choice import Choice
from efficientllm.records.settings import Grid, InferenceSettings, PretrainSettings


@pytest.fixture(scope="module")
def model(text, tmp_path_factory):
    """A folder whose shape and tokenizer no default of a recipe would lead to."""
    folder = tmp_path_factory.mktemp("served") / "model"
    settings = PretrainSettings(
        shape=SMALL, corpus=Choice(name=str(text / "corpus")), vocab_tokens=320, sequence_tokens=64, heldout_tokens=512
    )
    prepared = prepare(settings, text / "cache", None)
    decoder = build_decoder(settings, vocab_tokens=prepared.tokenizer.vocab_tokens, seed=0, device="cpu")
    checkpoint.save(decoder, settings, folder, prepared.tokenizer.path)
    return folder


def served(text, model, engine, folder, **options):
    settings = InferenceSettings(
        model=str(model), engine=Choice(name=engine, options=options), corpus=Choice(name=str(text / "corpus")),
        sequence_tokens=64, heldout_tokens=512, prefill=(Grid(tokens=16),), decode=(Grid(batch=2, tokens=16),),
    )  # fmt: skip
    return run(settings, text, folder)


def test_every_engine_serves_the_folder_and_judges_it_alike(text, model, tmp_path):
    losses = {}
    for engine, options in (("native", {}), ("transformers", {}), ("transformers_static", {"compiled": False})):
        end, figures, series = served(text, model, engine, tmp_path / engine, **options)
        assert end.outcome == "ok", end
        assert series["prefill", "step_s"] and series["decode", "step_s"]
        assert (None, "random_weights") not in figures
        losses[engine] = figures["quality", "heldout_nats_per_token"]
    assert losses["transformers"] == pytest.approx(losses["native"], rel=1e-5)
    assert losses["transformers_static"] == pytest.approx(losses["native"], rel=1e-5)


def test_a_model_that_is_not_there_or_knows_fewer_tokens_than_its_tokenizer_is_one_line(text, model, tmp_path):
    assert "no such folder" in served(text, "/no/such/folder", "native", tmp_path)[0].reason
    small = tmp_path / "small"
    small.mkdir()
    for path in model.iterdir():
        (small / path.name).write_bytes(path.read_bytes())
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    assert "the model only 100" in served(text, small, "native", tmp_path / "run")[0].reason


def test_a_stage_takes_its_model_from_another_stage_or_names_it_and_not_both(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text(
        "name: both\ntitle: Both\nstages:\n"
        "  - {name: train, workload: pretrain}\n"
        "  - {name: serve, workload: inference, from: train, model: somewhere/model}\n"
    )
    with pytest.raises(RecipeError, match=r"stages.serve.model: comes with `from: train`"):
        expand(load_recipe(str(path)), "cpu")
