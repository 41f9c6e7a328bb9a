"""Models made by transformers, served by every engine: the same logits, and one clear line for what cannot be served."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from efficientllm import registry
from efficientllm.errors import Unsupported, UserError
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

ENGINES = ["native", "transformers", "transformers_static"]
THEIRS = ENGINES[1:]
VOCAB, X = 96, torch.randint(96, (2, 30), generator=torch.Generator().manual_seed(7))
BASE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
#: family -> what sets it apart; the window is shorter than the prompt, and so are the decoded tokens.
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 9},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
}


def serve(engine, folder, **options):
    if engine == "transformers_static":
        options = {"compiled": False, **options}
    settings = InferenceSettings(model=str(folder), engine=Choice(name=engine, options=options), sequence_tokens=16)
    entry = registry.load("engine", engine)
    return entry.open(settings, folder=folder, vocab_tokens=VOCAB, seed=0, device="cpu", threads=0)


def make(folder, family, **more):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **more)).eval()
    model.save_pretrained(folder)
    with torch.no_grad():
        return model(X).logits


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of each family, and the logits of whoever made it."""
    root = tmp_path_factory.mktemp("families")
    return root, {family: make(root / family, family, **BASE, **more) for family, more in FAMILIES.items()}


@pytest.fixture
def copied(world, tmp_path):
    """A llama folder to do damage to."""
    return shutil.copytree(world[0] / "llama", tmp_path / "llama")


def configure(folder, **more):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_family_gives_the_logits_of_its_maker_in_pieces_and_after_a_rewind(engine, family, world):
    root, expected = world
    served = serve(engine, root / family)
    served.begin(2, 30)
    first = [served.prefill(X[:, :12]).clone(), served.prefill(X[:, 12:24]).clone()]
    served.mark()
    for _ in range(2):
        got = first + [served.decode(X[:, place]).clone() for place in range(24, 30)]
        for logits, place in zip(got, (11, *range(23, 30)), strict=True):
            torch.testing.assert_close(logits, expected[family][:, place], atol=2e-4, rtol=1e-4)
        served.rewind(24)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engines_tell_the_same_counts_and_generate_the_same_after_ragged_prompts(family, world):
    served = [serve(engine, world[0] / family) for engine in ENGINES]
    prompts = [X[0, :20].tolist(), X[1, :3].tolist(), X[1, 4:16].tolist()]
    assert len({str(engine.generate(prompts, 6).tolist()) for engine in served}) == 1
    for ask in ("weight_bytes", "parameters_total", "train_flops_per_token", "cache_bytes_per_token", "disk_bytes"):
        assert len({getattr(engine.facts(), ask) for engine in served}) == 1, ask
    assert len({engine.decode_work(3, 100) for engine in served}) == 1
    assert len({engine.prefill_work(2, 100) for engine in served}) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_random_weights_are_the_same_in_every_engine(engine):
    scores = []
    for name in ("native", engine):
        settings = InferenceSettings(shape={"num_layers": 2, "qkv_bias": True}, engine=Choice(name=name))
        opened = registry.load("engine", name).open(
            settings, folder=None, vocab_tokens=VOCAB, seed=5, device="cpu", threads=0
        )
        scores.append(opened.score(X)[0])
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_that_do_not_belong_to_the_config_are_refused(engine, copied):
    path = copied / "model.safetensors"
    weights, name = load_file(path), "model.layers.1.mlp.up_proj.weight"
    cases = {
        f"lacks {name}": {key: value for key, value in weights.items() if key != name},
        name: {**weights, name: weights[name][:-1].contiguous()},
        "has extra.weight": {**weights, "extra.weight": torch.zeros(1)},
    }
    for match, changed in cases.items():
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(UserError, match=match) as caught:
            serve(engine, copied)
        assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        serve(engine, copied)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_no_known_model_is_one_line(engine, copied):
    configure(copied, model_type="llama9")
    with pytest.raises(Unsupported, match="llama9") as caught:
        serve(engine, copied)
    assert "\n" not in str(caught.value)
    (copied / "config.json").write_text("[1")
    with pytest.raises(UserError, match="cannot be read"):
        serve(engine, copied)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_quantised_checkpoint_says_what_it_takes(engine, copied):
    told = {
        "gptq": ("quantised .gptq.", "quantised .gptq., for which gptqmodel"),
        "gpqt": ("quantised .gpqt.", "unknown quantisation scheme 'gpqt' .* Did you mean 'gptq'"),
        "": ("does not say how", "unknown quantisation scheme ''"),
    }
    for scheme, (ours, theirs) in told.items():
        configure(copied, quantization_config={"quant_method": scheme, "bits": 4})
        with pytest.raises(Unsupported, match=ours if engine == "native" else theirs):
            serve(engine, copied)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pickle_is_never_read(engine, copied):
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle \(pytorch_model.bin\).* can run code"):
        serve(engine, copied)
    (copied / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"holds no .*safetensors"):
        serve(engine, copied)


@pytest.mark.parametrize("engine", THEIRS)
def test_a_checkpoints_code_runs_only_where_the_option_says_so(engine, copied, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    mark = tmp_path / f"{engine}.ran"
    (copied / "own.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    configure(copied, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"})
    with pytest.raises(UserError, match=r"code of its own.*remote_code: true"):
        serve(engine, copied)
    assert not mark.exists()
    served = serve(engine, copied, remote_code=True)
    assert mark.exists()
    served.begin(1, 8)
    assert served.prefill(X[:1, :8]).shape == (1, VOCAB)


@pytest.mark.parametrize("engine", THEIRS)
def test_another_architecture_is_served_with_what_can_be_counted_and_no_more(engine, tmp_path):
    expected = make(
        tmp_path / "gpt2",
        "gpt2",
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=40,
        initializer_range=0.3,
    )
    served = serve(engine, tmp_path / "gpt2")
    served.begin(2, 30)
    got = [served.prefill(X[:, :29]).clone(), served.decode(X[:, 29]).clone()]
    torch.testing.assert_close(torch.stack(got, 1), expected[:, 28:], atol=2e-4, rtol=1e-4)
    prompts = [X[0, :12].tolist(), X[1, :3].tolist()]  # its positions are absolute: padding would move them
    assert served.generate(prompts, 6).tolist() == [served.generate([prompt], 6)[0].tolist() for prompt in prompts]
    facts = served.facts()
    assert facts.weight_bytes == 4 * facts.parameters_total and facts.parameters_embedding == VOCAB * 32
    assert (served.decode_work(2, 30).tokens, served.decode_work(2, 30).model_flops) == (2, 0)
    with pytest.raises(Unsupported, match="41 tokens exceed the 40 positions"):
        served.begin(1, 41)
    with pytest.raises(Unsupported, match="gpt2"):
        serve("native", tmp_path / "gpt2")


@pytest.mark.parametrize("engine", THEIRS)
def test_formats_of_ours_are_refused_and_plain_ones_held(engine, world):
    def opened(**more):
        settings = InferenceSettings(engine=Choice(name=engine), **more)
        entry = registry.load("engine", engine)
        return entry.open(settings, folder=world[0] / "llama", vocab_tokens=VOCAB, seed=0, device="cpu", threads=0)

    half, full = (opened(precision=Choice(name=name)) for name in ("bf16", "fp32"))
    assert 2 * half.weight_bytes == full.weight_bytes
    with pytest.raises(Unsupported, match=r"precision int4: .* packs no weights itself"):
        opened(precision=Choice(name="int4"))
    with pytest.raises(Unsupported, match="cache kv_int8: "):
        opened(cache=Choice(name="kv_int8"))


def test_a_model_says_itself_what_it_is():
    with pytest.raises(UserError, match=r"says itself what its mixer is. Leave mixer out"):
        InferenceSettings(model="somewhere/model", mixer=Choice(name="mla"))
    assert InferenceSettings(model="somewhere/model").model
