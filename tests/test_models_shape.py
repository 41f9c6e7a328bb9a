"""Shapes: named sizes, overrides, and what is refused."""

import subprocess
import sys

import pytest

from efficientllm.errors import UnknownNameError, UserError
from efficientllm.models.shape import Shape, make_shape, resolve_shape
from efficientllm.models.sizes import SIZES
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import PretrainSettings

#: layers, width, heads, kv heads, mlp width, tied: design.md and Qwen2.5's published configs.
EXPECTED = {
    "tiny": (4, 256, 4, 2, 704, True),
    "small": (12, 512, 8, 2, 1408, True),
    "0.5b": (24, 896, 14, 2, 4864, True),
    "1.5b": (28, 1536, 12, 2, 8960, True),
    "3b": (36, 2048, 16, 2, 11008, True),
    "7b": (28, 3584, 28, 4, 18944, False),
    "14b": (48, 5120, 40, 8, 13824, False),
    "32b": (64, 5120, 40, 8, 27648, False),
    "72b": (80, 8192, 64, 8, 29568, False),
}


@pytest.mark.parametrize("size", EXPECTED)
def test_a_size_has_its_published_counts(size):
    shape = resolve_shape(ModelSettings(size=size), vocab_tokens=151936)
    counts = (shape.num_layers, shape.width, shape.num_heads, shape.num_kv_heads, shape.mlp_width, shape.tie_embeddings)
    assert counts == EXPECTED[size]
    assert shape.head_dim * shape.num_heads == shape.width
    assert shape.vocab_tokens == 151936


def test_no_size_is_missing_or_surplus():
    assert set(SIZES) == set(EXPECTED)


def test_overrides_replace_fields_and_the_head_width_follows():
    shape = resolve_shape(PretrainSettings(shape={"width": 512, "num_heads": 16, "qk_norm": True}), vocab_tokens=100)
    assert (shape.width, shape.num_heads, shape.head_dim, shape.qk_norm) == (512, 16, 32, True)


def test_a_head_width_that_is_given_needs_no_divisor():
    shape = resolve_shape(ModelSettings(shape={"num_heads": 6, "head_dim": 64}), vocab_tokens=100)
    assert (shape.num_heads, shape.head_dim) == (6, 64)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ({"widht": 3}, "Did you mean 'width'"),
        ({"num_heads": 3}, "num_heads 3 does not divide shape.width 256"),
        ({"num_kv_heads": 3}, "num_kv_heads 3 does not divide shape.num_heads 4"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_layers": -1}, "num_layers is -1"),
        ({"num_layers": 256_000}, "num_layers is 256000"),
        ({"num_layers": 2.5}, "num_layers is 2.5"),
        ({"num_layers": "two"}, "num_layers is 'two'"),
        ({"num_layers": True}, "num_layers is True"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"head_dim": -4}, "head_dim is -4"),
        ({"norm": "batch"}, "norm is 'batch'. Choose one of: rms, layer"),
        ({"rotary_share": 0.0}, "rotary_share is 0.0"),
        ({"rotary_share": 1.5}, "rotary_share is 1.5"),
        ({"norm_eps": 1.0}, "norm_eps is 1.0"),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'"),
        ({"sliding_window": -1}, "sliding_window is -1"),
        ({"vocab_tokens": 7}, "Set vocab_tokens itself"),
    ],
)
def test_a_shape_that_makes_no_model_is_refused_in_one_line_with_its_value(override, says):
    with pytest.raises(UserError) as caught:
        resolve_shape(ModelSettings(shape=override), vocab_tokens=2048)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'tiny'"):
        resolve_shape(ModelSettings(size="tinny"), vocab_tokens=2048)


@pytest.mark.parametrize("vocab_tokens", [0, -5, 10**9])
def test_a_vocabulary_that_makes_no_model_is_refused(vocab_tokens):
    with pytest.raises(UserError, match="vocab_tokens"):
        resolve_shape(ModelSettings(), vocab_tokens)


def test_a_resolved_shape_makes_itself_again():
    shape = resolve_shape(ModelSettings(size="0.5b"), vocab_tokens=1000)
    assert make_shape({name: getattr(shape, name) for name in Shape.__dataclass_fields__}) == shape


def test_shapes_and_families_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import efficientllm.models.families\n"
        "from efficientllm.models.shape import resolve_shape\n"
        "from efficientllm.records.settings import ModelSettings\n"
        "print(resolve_shape(ModelSettings(), 2048).width)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "256", done.stderr
