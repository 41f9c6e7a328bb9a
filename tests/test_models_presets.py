"""Presets: whole designs of a block, what they and a size put into open slots, and what a user says before both."""

import pytest
import torch

from efficientllm import catalog, registry
from efficientllm.errors import UnknownNameError, UserError
from efficientllm.models import checkpoint, costs
from efficientllm.models.build import build_decoder
from efficientllm.models.norm import LayerNorm
from efficientllm.models.shape import Shape, resolve_shape
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import recipe_from_text
from efficientllm.records.choice import Choice
from efficientllm.records.codec import decode, encode
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.preset import Preset
from efficientllm.records.settings import InferenceSettings, PretrainSettings

PRESETS = catalog.names("preset")
PYTHIA = Choice(name="pythia")
SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "head_dim": 16, "max_positions": 64}


def build(settings):
    decoder = build_decoder(settings, vocab_tokens=96, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return decoder


def tokens(rows, length):
    return torch.randint(96, (rows, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_card_and_names_only_what_there_is(name):
    preset = registry.load("preset", name)
    assert isinstance(preset, Preset)
    assert preset.card.title and preset.card.source.startswith("arXiv:") and preset.card.improves
    assert set(preset.shape) <= set(Shape.__dataclass_fields__)
    assert all(entry in catalog.names(slot) for slot, entry in preset.slots.items())


def test_pythia_is_what_transformers_calls_gpt_neox():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=96, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        rotary_pct=0.25, max_position_embeddings=64, layer_norm_eps=1e-5, use_parallel_residual=True,
        tie_word_embeddings=False, attention_bias=True, hidden_act="gelu",
    )  # fmt: skip
    decoder = build(ModelSettings(shape=SMALL, preset=PYTHIA))
    theirs = GPTNeoXForCausalLM(config).eval()
    head = next(name for name in ("lm_head.weight", "embed_out.weight") if name in theirs.state_dict())
    names = {
        "embed.weight": "gpt_neox.embed_in.weight",
        "head.weight": head,
        "blocks.": "gpt_neox.layers.",
        "mixer_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "mixer.qkv": "attention.query_key_value",
        "mixer.out": "attention.dense",
        "mlp.up": "mlp.dense_h_to_4h",
        "mlp.down": "mlp.dense_4h_to_h",
    }
    renamed = {}
    for name, value in decoder.state_dict().items():
        if "qkv" in name:  # theirs lie head by head
            value = value.unflatten(0, (3, 4, 16)).transpose(0, 1).flatten(0, 2)
        if name.startswith("norm."):
            name = name.replace("norm.", "gpt_neox.final_layer_norm.")
        for ours, other in names.items():
            name = name.replace(ours, other)
        renamed[name] = value
    theirs.load_state_dict(renamed, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(decoder(tokens(2, 21)), theirs(tokens(2, 21)).logits, atol=2e-5, rtol=2e-5)


def test_parallel_sublayers_read_the_same_and_others_one_after_the_other():
    settings = [ModelSettings(shape={**SMALL, "num_layers": 1, "parallel_residual": side}) for side in (True, False)]
    for side, decoder in zip((True, False), map(build, settings), strict=True):
        block, places = decoder.block(0), decoder.position.at(torch.arange(9)[None], torch.float32)
        x = torch.randn(2, 9, 64)
        mixed = block.mixer(block.mixer_norm(x), places)
        read = x if side else x + mixed
        torch.testing.assert_close(block(x, places, None, None), x + mixed + block.mlp(block.mlp_norm(read)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norm_is_its_formula_in_the_type_of_its_input(dtype):
    norm, x = LayerNorm(24, 1e-2), torch.randn(3, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        norm.weight.add_(torch.linspace(-0.5, 0.5, 24))
        norm.bias.add_(torch.linspace(1, 2, 24))
        wide = x.double()
        deviation = (wide.var(-1, correction=0, keepdim=True) + 1e-2).sqrt()
        expected = (wide - wide.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias
        got = norm(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected.double(), atol=1e-5 if dtype == torch.float32 else 3e-2, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_decodes_what_it_computes_all_at_once(preset):
    decoder, x = build(ModelSettings(shape=SMALL, preset=Choice(name=preset))), tokens(2, 20)
    with torch.inference_mode():
        state = decoder.allocate(2, 24)
        state.use_fixed_shapes()
        pieces = [decoder(x[:, :11], state=state)] + [decoder.step(x[:, i], state)[:, None] for i in range(11, 20)]
        torch.testing.assert_close(torch.cat(pieces, 1), decoder(x), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_learns_and_all_its_parameters_get_gradients(preset):
    settings = ModelSettings(shape=SMALL, preset=Choice(name=preset))
    decoder, x = build_decoder(settings, vocab_tokens=96, seed=0, device="cpu"), tokens(1, 33)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    for _ in range(60):
        loss = decoder.loss(x[:, :-1], x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())
        optimizer.step()
    assert loss.item() < 0.2


def test_pythia_fills_open_slots_and_its_mlp_follows_the_width():
    settings = ModelSettings(preset=PYTHIA)
    assert (settings.mixer.name, settings.position.name, settings.mlp.name) == ("mha", "rope", "gelu")
    shape = resolve_shape(settings, 96)
    assert (shape.width, shape.mlp_width, shape.norm, shape.tie_embeddings) == (256, 1024, "layer", False)
    assert resolve_shape(ModelSettings(preset=PYTHIA, shape={"width": 512}), 96).mlp_width == 2048


def test_what_the_user_says_comes_before_preset_and_size():
    settings = ModelSettings(
        size="tinyx8", preset=PYTHIA, mixer=Choice(name="gqa"), mlp=Choice(name="dense"), shape={"mlp_width": 96}
    )
    assert (settings.mixer.name, settings.mlp.name) == ("gqa", "dense")
    assert resolve_shape(settings, 96).mlp_width == 96
    assert resolve_shape(ModelSettings(preset=PYTHIA, shape={"norm": "rms"}), 96).norm == "rms"


def test_a_mixers_file_says_which_position_goes_with_it_unless_the_user_does(tmp_path):
    path = tmp_path / "still.py"
    path.write_text(catalog.path_of("mixer", "mha").read_text() + 'SLOTS = {"position": "none"}\n')
    still = Choice(name="still", path=str(path))
    assert ModelSettings(mixer=still).position.name == "none"
    assert ModelSettings(mixer=still, preset=PYTHIA).mlp.name == "gelu"
    assert ModelSettings(mixer=still, position=Choice(name="alibi")).position.name == "alibi"
    assert (
        ModelSettings(mixer=Choice(name="elsewhere")).position.name == "rope"
    )  # a name of another machine, in a record


@pytest.mark.parametrize(
    ("size", "base", "experts"), [("0.5bx8", "0.5b", 8), ("1.5b×8", "1.5b", 8), ("tinyx4", "tiny", 4)]
)
def test_a_size_with_experts_is_the_dense_shape_with_a_mixture_as_its_mlp(size, base, experts):
    settings = ModelSettings(size=size)
    assert settings.mlp == Choice(name="moe", options={"num_experts": experts})
    assert settings == ModelSettings(size=size.replace("×", "x"))
    assert resolve_shape(settings, 96) == resolve_shape(ModelSettings(size=base), 96)
    assert ModelSettings(size=size, preset=PYTHIA).mlp.name == "moe"
    assert ModelSettings(size=size, mlp=Choice(name="gelu")).mlp.name == "gelu"


@pytest.mark.parametrize("size", ["tinnyx8", "tinyx0", "tinyx", "x8"])
def test_a_size_with_experts_that_is_none_is_unknown(size):
    with pytest.raises(UnknownNameError, match="unknown size"):
        resolve_shape(ModelSettings(size=size), 96)


def test_preset_and_size_are_resolved_before_a_trial_has_its_identity():
    text = (
        "workload: pretrain\nrepeats: 1\nbaseline: {preset: modern, size: tiny}\n"
        "axes: {preset: [modern, pythia], size: [tiny, tiny×8]}\n"
    )
    trials = expand(recipe_from_text(text, "a.yaml"), "cpu").trials
    rows = {(t.axes["preset"], t.axes["size"]): (t.settings.mixer.name, t.settings.mlp.name) for t in trials}
    assert rows == {
        ("modern", "tiny"): ("gqa", "dense"),
        ("modern", "tiny×8"): ("gqa", "moe"),
        ("pythia", "tiny"): ("mha", "gelu"),
        ("pythia", "tiny×8"): ("mha", "moe"),
    }
    assert [trial.baseline for trial in trials] == [True, False, False, False]
    explicit = text.replace("axes:", "mixer: gqa\nmlp: gelu\naxes:")
    assert {t.settings.mlp.name for t in expand(recipe_from_text(explicit, "a.yaml"), "cpu").trials} == {"gelu"}
    one, other = (recipe_from_text(f"workload: pretrain\nsize: {size}\n", "a.yaml") for size in ("tinyx8", "tiny×8"))
    assert expand(one, "cpu").trials[0].id == expand(other, "cpu").trials[0].id


def test_what_follows_from_a_stage_has_its_preset_and_slots():
    text = (
        "stages:\n- {name: a, workload: pretrain, axes: {preset: [pythia]}, match: params}\n"
        "- {name: b, workload: inference, from: a}\n"
    )
    child = expand(recipe_from_text(text, "a.yaml"), "cpu").trials[1].settings
    assert isinstance(child, InferenceSettings)
    assert (child.preset.name, child.mixer.name, child.mlp.name, child.match) == ("pythia", "mha", "gelu", "params")


def test_a_stored_record_keeps_its_slots_whatever_presets_there_are_now(tmp_path):
    gone = Choice(name="mine", path=str(tmp_path / "mine.py"), sha256="0" * 64)
    settings = PretrainSettings(
        mixer=Choice(name="mha"), position=Choice(name="rope"), mlp=Choice(name="gelu"), preset=gone
    )
    stored = example_measurement(trial=example_trial(settings))
    assert decode(encode(stored)).trial.settings == settings


def test_a_users_own_preset_is_a_file(tmp_path):
    path = tmp_path / "wide.py"
    path.write_text(
        '"""A wide mlp."""\n'
        "from efficientllm.records.card import Card\n"
        "from efficientllm.records.preset import Preset\n"
        "ENTRY = Preset(card=Card(title='Wide', source='here'), slots={'mlp': 'gelu'}, mlp_ratio=8.0)\n"
    )
    settings = ModelSettings(preset=Choice(name="wide", path=str(path)))
    assert settings.mlp.name == "gelu" and resolve_shape(settings, 96).mlp_width == 8 * 256


def test_what_is_no_preset_is_refused_in_one_line(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'pythia'"):
        ModelSettings(preset=Choice(name="pythja"))
    with pytest.raises(UserError, match=r"unknown option 'norm' of preset pythia. .* set shape.norm instead"):
        ModelSettings(preset=Choice(name="pythia", options={"norm": "rms"}))
    mixer = catalog.path_of("mixer", "mha")
    with pytest.raises(UserError, match="is a MixerEntry, not a Preset"):
        ModelSettings(preset=Choice(name="mha", path=str(mixer)))


def test_no_model_of_another_design_is_called_a_llama(tmp_path):
    changes = (
        {"norm": "layer"},
        {"parallel_residual": True},
        {"rotary_share": 0.5},
        {"out_bias": True},
        {"mlp_bias": True},
    )
    for change in changes:
        decoder = build(ModelSettings(shape={**SMALL, **change}))
        assert checkpoint.family_of_decoder(decoder) is None, change
        checkpoint.save(decoder, ModelSettings(shape={**SMALL, **change}), tmp_path / "model")
        assert torch.equal(checkpoint.load(tmp_path / "model")(tokens(1, 9)), decoder(tokens(1, 9)))
    assert checkpoint.family_of_decoder(build(ModelSettings(shape=SMALL))) == "llama"


def test_pythia_costs_what_is_worked_out_by_hand():
    facts = costs.facts(build(ModelSettings(preset=PYTHIA)), 4, 256)
    qkv, out = (256 + 1) * 3 * 256, (256 + 1) * 256
    mlp, norms = (256 + 1) * 1024 + (1024 + 1) * 256, 2 * 2 * 256
    assert facts.parameters_total == 4 * (qkv + out + mlp + norms) + 2 * 256 + 2 * 96 * 256
    weights = 4 * (4 * 256 * 256 + 2 * 256 * 1024) + 96 * 256
    pairs = 256 * 257 // 2
    assert facts.train_flops_per_token == 3 * (2 * 256 * weights + 4 * pairs * 4 * 256) / 256
