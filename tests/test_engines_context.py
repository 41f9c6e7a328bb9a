"""No text is longer than what its checkpoint was made for, and no setting is passed over in silence."""

import json

import pytest
import torch

from efficientllm import registry
from efficientllm.engines._context import context_tokens
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

ENGINES = ["native", "transformers", "transformers_static"]
SHAPE = {"num_layers": 1, "width": 32, "num_heads": 2, "num_kv_heads": 1, "mlp_width": 64, "head_dim": 0}
X = torch.randint(64, (1, 41), generator=torch.Generator().manual_seed(0))


def serve(engine, folder, options=None, **settings):
    if engine == "transformers_static":
        options = {"compiled": False} if options is None else options
    chosen = InferenceSettings(engine=Choice(name=engine, options=options or {}), shape=SHAPE, size="tiny", **settings)
    return registry.load("engine", engine).open(chosen, folder=folder, vocab_tokens=64, seed=0, device="cpu", threads=0)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint that was made for 32 tokens."""
    settings = InferenceSettings(shape={**SHAPE, "max_positions": 32}, size="tiny", sequence_tokens=16)
    decoder = build_decoder(settings, vocab_tokens=64, seed=0, device="cpu")
    checkpoint.save(decoder, settings, tmp_path)
    return tmp_path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_serves_its_context_and_not_a_token_more(engine, folder):
    served = serve(engine, folder)
    served.begin(1, 32)
    served.prefill(X[:, :31])
    served.decode(X[:, 31])
    assert served.score(X[:, :33])[1] == 32
    for ask in (
        lambda: served.begin(1, 33),
        lambda: served.score(X[:, :34]),
        lambda: served.generate([X[0, :30].tolist()], 3),
    ):
        with pytest.raises(Unsupported, match=r"exceed the 32 positions .*max_position_embeddings") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_random_weights_with_rope_are_served_at_any_length(engine):
    serve(engine, None).begin(1, 100_000 if engine == "native" else 40_000)


def test_our_own_tellers_of_logits_keep_to_the_context_too(folder):
    served = serve("native", folder)
    with pytest.raises(Unsupported, match="33 tokens exceed the 32"):
        next(served.logits(X[:, :33]))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 0),
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 512}, "max_position_embeddings": 7}, 512),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4}}, 16384),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        (
            {
                "max_position_embeddings": 163840,
                "rope_parameters": {
                    "rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                },
            },
            163840,
        ),
        (
            {
                "max_position_embeddings": 32768,
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
            },
            262144,
        ),
    ],
)  # fmt: skip
def test_the_context_is_what_the_config_says_with_its_stretching(config, expected):
    assert context_tokens(json.loads(json.dumps(config))) == expected


def test_compile_has_an_effect_or_is_refused():
    assert serve("transformers_static", None, {}, compile=True).facts().implementations["decode"] == "compiled"
    with pytest.raises(Unsupported, match=r"engine transformers runs eager\. Engine transformers_static"):
        serve("transformers", None, compile=True)
    with pytest.raises(UserError, match="contradict each other"):
        serve("transformers_static", None, {"compiled": False}, compile=True)
