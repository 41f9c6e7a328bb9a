"""Adapters go out to peft and transformers, and come in by a user's own configuration; what fits nothing is refused."""

import json
from pathlib import Path

import pytest
import torch
from tests.adapted import ADAPTERS, MODELS, TOKENS, attached, decoder_of, distance, logits, train

from efficientllm import registry
from efficientllm.adapters.attach import attach
from efficientllm.errors import UnknownNameError, UserError
from efficientllm.models import checkpoint
from efficientllm.recipes.resolve import resolve
from efficientllm.records.finetune_settings import FinetuneSettings

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture
def write(tmp_path):
    """Return what writes a configuration and attaches it, as a recipe that names its path would."""

    def attach_config(folder="own", decoder=None, **words):
        path = tmp_path / folder / "adapter_config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**CONFIG, **words}))
        return attach(decoder_of() if decoder is None else decoder, settings_of(str(path)), 3)

    return attach_config


def settings_of(method):
    return resolve(FinetuneSettings, {"method": method}, "a.yaml", "stages.finetune")


@pytest.mark.parametrize(("name", "model"), [*((name, "qwen") for name in ADAPTERS), ("lora", "llama")])
def test_peft_lays_a_saved_adapter_on_the_saved_model(name, model, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    decoder = decoder_of(model)
    checkpoint.save(decoder, MODELS[model], tmp_path / "model")
    method = attached(decoder, name)
    train(method, steps=2)
    method.save(tmp_path / "adapter", base=str(tmp_path / "model"))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), tmp_path / "adapter")
    with torch.no_grad():
        found = theirs(TOKENS).logits
    assert distance(found, logits(decoder)) < 1e-5
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert said["task_type"] == "CAUSAL_LM" and said["base_model_name_or_path"] == str(tmp_path / "model")


def test_a_pissa_adapter_read_with_its_own_seed_leaves_the_base_as_it_was_drawn(tmp_path):
    method = attached(decoder_of(), "pissa", seed=3)
    train(method, steps=2)
    method.save(tmp_path)
    other = decoder_of()
    again = attached(other, "pissa", seed=3)
    base = {key: p.clone() for key, p in other.named_parameters() if not p.requires_grad}
    again.load(tmp_path)
    assert all(torch.equal(p, base[key]) for key, p in other.named_parameters() if key in base)
    assert torch.equal(logits(other), logits(method.decoder))


def test_a_pissa_adapter_of_any_scale_is_read_over_a_start_of_another_seed(tmp_path):
    options = {"rank": 8, "alpha": 24.0, "niter": 1}
    method = attached(decoder_of(), "pissa", seed=3, **options)
    train(method, steps=2)
    method.save(tmp_path)
    other = decoder_of()
    again = attached(other, "pissa", seed=4, **options)
    assert any(not torch.equal(p, method.trained()[key]) for key, p in again.trained().items())
    again.load(tmp_path)
    assert distance(logits(other), logits(method.decoder)) < 1e-5


def test_a_configuration_of_ones_own_is_a_method_by_its_path_and_by_its_folder(write, tmp_path):
    method = write()
    assert len(method.trained()) == 2 * 2 * 2
    assert all(p.shape[0 if ".lora_A." in name else 1] == 4 for name, p in method.trained().items())
    losses = train(method)
    assert losses[-1] < losses[0]
    method.save(tmp_path / "saved")
    choice = settings_of(str(tmp_path / "own")).method
    assert choice.name == "adapter_config" and choice.sha256 == registry.file_sha256(
        tmp_path / "own" / "adapter_config.json"
    )
    other = decoder_of()
    attach(other, settings_of(str(tmp_path / "saved")), 4).load(tmp_path / "saved")
    assert torch.equal(logits(other), logits(method.decoder))


@pytest.mark.parametrize("kind", ["FOURIERFT", "RANDLORA"])
def test_a_configuration_may_ask_for_what_has_no_file_here(kind, write, tmp_path):
    words = {"FOURIERFT": {"n_frequency": 50}, "RANDLORA": {"r": 4}}[kind]
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"peft_type": kind, "target_modules": ["q_proj"], **words}))
    decoder = decoder_of()
    method = attach(decoder, settings_of(str(path)), 3)
    train(method, steps=2)
    trained = logits(decoder)
    method.merge()
    assert distance(logits(decoder), trained) < 1e-5


def test_olora_is_saved_for_the_model_as_it_was(write, tmp_path):
    method = write(init_lora_weights="olora")
    train(method, steps=2)
    method.save(tmp_path / "saved")
    plain = decoder_of()
    attach(plain, settings_of(str(tmp_path / "saved")), 4).load(tmp_path / "saved")
    assert distance(logits(plain), logits(method.decoder)) < 1e-5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"target_modules": ["query_key_value"]}, "no layer is called 'query_key_value'.*Its layers: q_proj, k_proj"),
        ({"target_modules": ["q_prj"]}, "Did you mean 'q_proj'"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "no layer is called 'embed_tokens'"),
        ({"target_modules": r".*\.attention\..*"}, "fit no layer of this model"),
        ({"target_modules": None}, "fit no layer of this model"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save asks for layers trained whole.*Its layers"),
        ({"bias": "all"}, "bias 'all'"),
        ({"init_lora_weights": "eva"}, "needs data before training"),
        ({"r": 33, "target_modules": ["k_proj"]}, "rank 33 is larger than .*k_proj, which is 32 x 64.* possible is 32"),
        ({"rank_pattern": {"q_proj": 65}}, "rank 65 is larger than .*q_proj, which is 64 x 64"),
        ({"r": 0}, "rank 0 is none"),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING is no adapter of dense layers"),
        ({"peft_type": "LORE"}, "peft_type 'LORE' is unknown"),
        ({"peft_type": None}, "says no peft_type"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_in_one_line(words, says, write):
    decoder = decoder_of()
    before = [name for name, _ in decoder.named_modules()]
    with pytest.raises(UserError, match=says) as caught:
        write(decoder=decoder, **words)
    assert "\n" not in str(caught.value)
    assert [name for name, _ in decoder.named_modules()] == before


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        attach(decoder_of(), settings_of(str(tmp_path / "own.json")), 3)
    with pytest.raises(UnknownNameError, match=r"none.json.*no such file.*Did you mean .own\.json"):
        settings_of(str(tmp_path / "none.json"))
    with pytest.raises(UnknownNameError, match=r"the folder holds no adapter_config\.json"):
        settings_of(str(tmp_path))
    with pytest.raises(UnknownNameError):
        resolve(FinetuneSettings, {"optimizer": str(tmp_path / "own.json")}, "a.yaml", "stages.finetune")


def test_a_folder_of_a_methods_name_does_not_hide_the_method(tmp_path, monkeypatch):
    Path(tmp_path / "lora").mkdir()
    monkeypatch.chdir(tmp_path)
    choice = settings_of("lora").method
    assert choice.path == "" and choice.name == "lora"


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name not in ("ia3", "oft")])
def test_a_rank_larger_than_a_layer_is_refused(name):
    with pytest.raises(
        UserError, match=r"rank 33 is larger than model\.layers\.0\.self_attn\.k_proj, which is 32 x 64"
    ):
        attached(decoder_of(), name, rank=33)


def test_blocks_that_do_not_divide_a_layer_are_refused():
    with pytest.raises(UserError, match=r"rank 24 do not divide model\.layers\.0\.self_attn\.q_proj"):
        attached(decoder_of(), "oft", rank=24)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_unknown_target_is_refused_with_the_nearest(name):
    with pytest.raises(UserError, match=r"no layer is called 'v_prj'\. Did you mean 'v_proj'"):
        attached(decoder_of(), name, targets="q_proj v_prj")
    with pytest.raises(UserError, match="targets name no layer"):
        attached(decoder_of(), name, targets="")


def test_a_folder_of_another_method_or_model_is_refused(tmp_path):
    for folder, name in (("lora", "lora"), ("full", "full"), ("freeze", "freeze"), ("pissa", "pissa")):
        attached(decoder_of(), name).save(tmp_path / folder)

    def refuses(folder, name, says, model="qwen", **options):
        with pytest.raises(UserError, match=says) as caught:
            attached(decoder_of(model), name, **options).load(tmp_path / folder)
        assert "\n" not in str(caught.value)

    refuses("lora", "ia3", "has peft_type 'LORA'")
    refuses("lora", "dora", "has use_dora False")
    refuses("lora", "lora", "has r 8, but the method here has 16", rank=16, alpha=16)
    refuses("lora", "lora", "has lora_alpha 16", rank=8, alpha=8)
    refuses("lora", "lora", "has target_modules", model="mla")
    refuses("lora", "full", "holds no trained.safetensors")
    refuses("full", "lora", "holds no adapter_config.json")
    refuses("full", "freeze", "has model.embed_tokens.weight|has ")
    refuses("freeze", "full", "lacks ")
    refuses("full", "full", "has model.layers.0.self_attn.k_proj.bias, unlike this model", model="llama")
    refuses("pissa", "lora", "has r 16")
