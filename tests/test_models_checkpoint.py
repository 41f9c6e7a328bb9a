"""Saved models: exact when read back, genuine for others, whole or not there at all.

One process without this package (`OUTSIDE`) plays the rest of the world for all tests: it makes Llama-family folders
of its own, and generates from ours.
"""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from efficientllm import catalog
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import checkpoint, costs
from efficientllm.models.build import build_decoder, unsupported_reason
from efficientllm.models.families import family_of
from efficientllm.models.mixers._probe import goes_with, position_with
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import PretrainSettings

SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96, "max_positions": 512}
VOCAB, NEW_TOKENS = 300, 16
MIXERS, POSITIONS = catalog.names("mixer"), catalog.names("position")
PAIRS = [(mixer, position) for mixer in MIXERS for position in POSITIONS if goes_with(mixer, position)]
PROMPT = torch.randint(VOCAB, (2, 21), generator=torch.Generator().manual_seed(0))

#: name -> (mixer, shape, family it is saved as)
OURS = {
    "gqa": ("gqa", {}, "llama"),
    "mha": ("mha", {}, "llama"),
    "mqa": ("mqa", {"tie_embeddings": False}, "llama"),
    "bias": ("gqa", {"qkv_bias": True}, "qwen2"),
    "norms": ("gqa", {"qk_norm": True, "head_dim": 24}, "qwen3"),
    "window": ("mha", {"sliding_window": 9}, "mistral"),
    "llama3": ("gqa", {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_positions": 16}, "llama"),
    "linear": ("gqa", {"rope_scaling": "linear", "rope_factor": 4.0, "rope_theta": 5e5}, "llama"),
}

OUTSIDE = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
root = Path(sys.argv[1])
prompt = torch.tensor(json.loads((root / "prompt.json").read_text()))
found = {}
for folder in sorted((root / "ours").iterdir()):
    model = AutoModelForCausalLM.from_pretrained(folder)
    found[folder.name] = {
        "class": type(model).__name__,
        "tokens": model.generate(prompt, max_new_tokens=NEW, do_sample=False, use_cache=True)[:, -NEW:].tolist(),
    }
base = dict(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2,
            bos_token_id=None, eos_token_id=None, pad_token_id=None)
theirs = {
    "llama": dict(rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=4.0, low_freq_factor=1.0,
                                       high_freq_factor=4.0, original_max_position_embeddings=16)),
    "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(head_dim=32),
    "mistral": dict(sliding_window=9),
}
for family, more in theirs.items():
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **base, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(root / "theirs" / family, max_shard_size="60KB")
    save_file({"logits": model(prompt).logits.detach().contiguous()}, root / f"{family}.logits")
assert not any(name.startswith("efficientllm") for name in sys.modules)
(root / "found.json").write_text(json.dumps(found))
""".replace("NEW", str(NEW_TOKENS))


def build(mixer="gqa", **shape):
    slots = {"mixer": Choice(name=mixer), "position": Choice(name=position_with(mixer))}
    settings = PretrainSettings(shape={**SMALL, **shape}, **slots, vocab_tokens=VOCAB)
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return decoder, settings


def greedy(decoder):
    with torch.inference_mode():
        state = decoder.allocate(2, 64)
        chosen = [decoder(PROMPT, state=state, last_only=True)[:, -1].argmax(-1)]
        while len(chosen) < NEW_TOKENS:
            chosen.append(decoder.step(chosen[-1], state).argmax(-1))
    return torch.stack(chosen, 1).tolist()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    (root / "prompt.json").write_text(json.dumps(PROMPT.tolist()))
    (root / "theirs").mkdir()
    for name, (mixer, shape, _) in OURS.items():
        decoder, settings = build(mixer, **shape)
        checkpoint.save(decoder, settings, root / "ours" / name)
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE, str(root)], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.parametrize("name", OURS)
def test_a_standard_model_is_a_genuine_folder_of_its_family_and_generates_the_same_tokens_elsewhere(world, name):
    mixer, shape, family = OURS[name]
    found = json.loads((world / "found.json").read_text())[name]
    assert found["class"].lower() == f"{family}forcausallm"
    decoder, _ = build(mixer, **shape)
    tokens = greedy(decoder)
    assert found["tokens"] == tokens
    assert len({token for row in tokens for token in row}) > 4  # a constant would prove little


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_folder_from_elsewhere_gives_the_same_logits_here(world, family):
    folder = world / "theirs" / family
    assert len(list(folder.glob("*.safetensors"))) > 1  # sharded
    expected = load_file(world / f"{family}.logits")["logits"]
    decoder = checkpoint.load(folder)
    torch.testing.assert_close(decoder(PROMPT), expected, atol=2e-4, rtol=1e-4)
    assert family_of(decoder.block(0).mixer.shape) == family


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_folder_from_elsewhere_can_be_saved_and_read_again(world, family, tmp_path):
    decoder = checkpoint.load(world / "theirs" / family)
    settings, shape = checkpoint.describe(world / "theirs" / family)
    assert shape == decoder.shape
    checkpoint.save(decoder, settings, tmp_path / "again")
    assert torch.equal(checkpoint.load(tmp_path / "again")(PROMPT), decoder(PROMPT))


def combinations():
    for mixer, position in itertools.product(catalog.names("mixer"), catalog.names("position")):
        settings = ModelSettings(shape=SMALL, mixer=Choice(name=mixer), position=Choice(name=position))
        if not unsupported_reason(settings, VOCAB):  # which those are, test_models_decoder says
            yield mixer, position


@pytest.mark.parametrize("preset", catalog.names("preset"))
@pytest.mark.parametrize(("mixer", "position"), [*combinations()])
def test_every_combination_is_rebuilt_exactly_from_its_sidecar(mixer, position, preset, tmp_path):
    settings = ModelSettings(
        shape={**SMALL, "rotary_share": 1.0},
        preset=Choice(name=preset),
        mixer=Choice(name=mixer),
        position=Choice(name=position),
    )
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    checkpoint.save(decoder, settings, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    expected = dict(decoder.named_parameters())
    assert {name: torch.equal(p, expected[name]) for name, p in again.named_parameters()} == dict.fromkeys(
        expected, True
    )
    assert checkpoint.describe(tmp_path / "model") == (settings, decoder.shape)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert checkpoint.weight_file_bytes(tmp_path / "model") >= costs.facts(decoder, 4, 8).weight_bytes


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_generates_the_same_after_a_prompt_of_odd_length_saved_and_token_by_token_or_at_once(
    mixer, tmp_path
):
    decoder, settings = build(mixer)
    checkpoint.save(decoder, settings, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    chosen, text = greedy(decoder), PROMPT
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            text = torch.cat((text, again(text, last_only=True).argmax(-1)), 1)
    assert PROMPT.shape[1] % 2 and text[:, PROMPT.shape[1] :].tolist() == chosen == greedy(again)


def test_options_of_a_slot_survive(tmp_path):
    settings = ModelSettings(shape=SMALL, mixer=Choice(name="mla", options={"latent_rank": 12}))
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    checkpoint.save(decoder, settings, tmp_path / "model")
    assert checkpoint.load(tmp_path / "model").block(0).mixer.latent_rank == 12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_is_saved_and_read_in_other_formats(dtype, tmp_path):
    decoder, settings = build("mla")
    checkpoint.save(decoder.to(dtype), settings, tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["torch_dtype"] == str(dtype)[6:]
    again = checkpoint.load(tmp_path / "model", dtype=dtype)
    assert again.dtype == dtype and torch.equal(again(PROMPT), decoder(PROMPT))
    assert checkpoint.load(tmp_path / "model").dtype == torch.float32


def test_a_model_of_our_own_parts_generates_in_transformers_after_one_import(tmp_path):
    decoder, settings = build("mla")
    checkpoint.save(decoder, settings, tmp_path / "model")
    code = (
        "import json, sys, torch, efficientllm.models.huggingface\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "x = torch.tensor(json.loads(sys.argv[2]))\n"
        f"plain = model.generate(x, max_new_tokens={NEW_TOKENS}, do_sample=False)[:, x.shape[1]:]\n"
        "pad = torch.cat([torch.zeros(2, 3, dtype=torch.int64), x], 1)\n"
        "mask = (torch.arange(pad.shape[1]) >= 3).long()[None].expand(2, -1)\n"
        f"padded = model.generate(pad, attention_mask=mask, max_new_tokens={NEW_TOKENS}, do_sample=False)\n"
        "assert torch.equal(padded[:, pad.shape[1]:], plain)\n"
        "loss = model(x, labels=x).loss\n"
        "loss.backward()\n"
        "print(json.dumps([plain.tolist(), loss.item()]))"
    )
    args = [sys.executable, "-c", code, str(tmp_path / "model"), json.dumps(PROMPT.tolist())]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tokens, loss = json.loads(done.stdout.splitlines()[-1])
    assert tokens == greedy(decoder)
    assert loss == pytest.approx(decoder.loss(PROMPT[:, :-1], PROMPT[:, 1:]).item(), rel=1e-4)


def test_reading_a_model_does_not_import_transformers(tmp_path):
    decoder, settings = build()
    checkpoint.save(decoder, settings, tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from efficientllm.models.checkpoint import load\n"
        "load(Path(sys.argv[1])); assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_killed_write_leaves_the_model_that_was_there(tmp_path, monkeypatch):
    decoder, settings = build()
    checkpoint.save(decoder, settings, tmp_path / "model")
    expected = decoder(PROMPT)
    other, others = build("mha")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.msgspec.json, "encode", killed)  # the last file of a folder
    for target in ("model", "new"):
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(other, others, tmp_path / target)
    monkeypatch.undo()
    assert torch.equal(checkpoint.load(tmp_path / "model")(PROMPT), expected)
    assert not (tmp_path / "new").exists()
    checkpoint.save(other, others, tmp_path / "model")  # the draft left behind is in nobody's way
    assert torch.equal(checkpoint.load(tmp_path / "model")(PROMPT), other(PROMPT))
    assert [path.name for path in tmp_path.iterdir() if "old" in path.name] == []


def test_a_tokenizer_lies_beside_the_model(tmp_path):
    decoder, settings = build()
    (tmp_path / "bpe.json").write_text("{}")
    (tmp_path / "files").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "README.md"):
        (tmp_path / "files" / name).write_text("{}")
    checkpoint.save(decoder, settings, tmp_path / "one", tmp_path / "bpe.json")
    checkpoint.save(decoder, settings, tmp_path / "two", tmp_path / "files")
    model = {"config.json", "model.safetensors", "efficientllm.json"}
    for name in ("one", "two"):
        held = {path.name for path in (tmp_path / name).iterdir()}
        assert held == model | {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model_type": "gpt2"}, Unsupported, "gpt2.*llama, mistral, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, Unsupported, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, Unsupported, "attention_bias = True"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, Unsupported, "rope_type = 'yarn'"),
        ({"num_hidden_layers": 3}, UserError, "lacks model.layers.2"),
        ({"num_hidden_layers": 1}, UserError, "has model.layers.1"),
        ({"intermediate_size": 95}, UserError, "do not belong together"),
        ({"tie_word_embeddings": False}, UserError, "lacks lm_head.weight"),
    ],
)
def test_a_folder_that_cannot_be_this_decoder_is_refused_with_the_reason(change, error, says, tmp_path):
    decoder, settings = build()
    checkpoint.save(decoder, settings, tmp_path / "model")
    (tmp_path / "model" / checkpoint.SIDECAR).unlink()
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=says) as caught:
        checkpoint.load(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_window_for_some_layers_only_is_unsupported(tmp_path):
    decoder, settings = build(qkv_bias=True)
    checkpoint.save(decoder, settings, tmp_path / "model")
    (tmp_path / "model" / checkpoint.SIDECAR).unlink()
    path = tmp_path / "model/config.json"
    more = {"use_sliding_window": True, "sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    with pytest.raises(Unsupported, match="some layers only"):
        checkpoint.load(tmp_path / "model")


def test_a_surplus_copy_of_a_tied_head_does_no_harm(tmp_path):
    decoder, settings = build()
    checkpoint.save(decoder, settings, tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model/model.safetensors")
    assert torch.equal(checkpoint.load(tmp_path / "model")(PROMPT), decoder(PROMPT))


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: (p.mkdir(), _broken(p))])
def test_a_folder_without_a_model_is_a_users_error(make, tmp_path):
    make(tmp_path / "model")
    with pytest.raises(UserError, match="Give the folder of a saved model"):
        checkpoint.load(tmp_path / "model")


def _broken(folder):
    (folder / "config.json").write_text("{")
