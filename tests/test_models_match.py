"""`match`: counts held equal to those of the plain model, what gave way for it, and what cannot be."""

import time

import pytest
import torch

from efficientllm import catalog
from efficientllm.errors import UnknownNameError, Unsupported, UserError
from efficientllm.models import checkpoint, costs
from efficientllm.models.assemble import assemble
from efficientllm.models.build import build_decoder, unsupported_reason
from efficientllm.models.match import matched
from efficientllm.models.shape import resolve_shape
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

VOCAB = 4096
ATTENTION = ("mha", "gqa", "mqa", "mla")
COUNTS = {"params": "parameters_total", "flops": "train_flops_per_token", "cache": "cache_bytes_per_token"}


def facts_of(settings):
    shape, settings, adjusted = matched(resolve_shape(settings, VOCAB), settings)
    decoder = assemble(shape, settings, device="meta", dtype=torch.float32)
    decoder.adjusted = adjusted
    return costs.facts(decoder, 2, settings.sequence_tokens)


def choose(mixer, **more):
    return ModelSettings(mixer=Choice(name=mixer), sequence_tokens=512, **more)


@pytest.mark.parametrize("match", ["params", "flops"])
@pytest.mark.parametrize("size", ["tiny", "small", "0.5b", "1.5b"])
@pytest.mark.parametrize("mixer", ATTENTION)
def test_parameters_or_flops_are_those_of_the_plain_model(mixer, size, match):
    plain, got = facts_of(choose("gqa", size=size)), facts_of(choose(mixer, size=size, match=match))
    name = COUNTS[match]
    assert getattr(got, name) == pytest.approx(getattr(plain, name), rel=5e-3)
    width = got.adjusted["shape.mlp_width"]
    assert got.adjusted == {"shape.mlp_width": width, f"target.{name}": getattr(plain, name)}
    assert width % 8 == 0
    if mixer == "mha":  # its larger projections are paid for by the mlp
        assert width < resolve_shape(ModelSettings(size=size), VOCAB).mlp_width
        assert facts_of(choose(mixer, size=size)).parameters_total > 1.005 * plain.parameters_total


def test_the_plain_model_is_left_as_it_is():
    for match, name in COUNTS.items():
        settings = choose("gqa", match=match)
        shape = resolve_shape(settings, VOCAB)
        assert matched(shape, settings)[:2] == (shape, settings), name
    assert matched(shape, choose("mla")) == (shape, choose("mla"), {})


@pytest.mark.parametrize("size", ["tiny", "small", "1.5b"])
@pytest.mark.parametrize("mixer", ATTENTION)
def test_a_token_takes_as_many_bytes_of_cache_as_in_the_plain_model(mixer, size):
    plain, got = facts_of(choose("gqa", size=size)), facts_of(choose(mixer, size=size, match="cache"))
    assert got.cache_bytes_per_token == pytest.approx(plain.cache_bytes_per_token, rel=0.05)
    assert set(got.adjusted) == {
        "mixer.latent_rank" if mixer == "mla" else "shape.head_dim",
        "target.cache_bytes_per_token",
    }
    if (mixer, size) == ("mla", "tiny"):
        assert got.adjusted["mixer.latent_rank"] == 2 * 2 * 64 - 32  # keys and values of two heads, less the rotary key


def test_a_cache_that_no_width_makes_equal_is_refused_with_how_near_it_comes():
    with pytest.raises(Unsupported, match=r"cache by shape.head_dim: 10 comes nearest, 9.4% off"):
        facts_of(choose("mha", size="0.5b", match="cache"))


@pytest.mark.parametrize("match", ["params", "flops"])
def test_blocks_of_another_design_and_other_positions_are_held_to_the_same_plain_model(match):
    plain = getattr(facts_of(choose("gqa")), COUNTS[match])
    for more in (
        {"preset": Choice(name="pythia")},
        {"position": Choice(name="learned", options={"max_positions": 512})},
        {"mlp": Choice(name="gelu")},
    ):
        got = facts_of(ModelSettings(sequence_tokens=512, match=match, **more))
        assert getattr(got, COUNTS[match]) == pytest.approx(plain, rel=5e-3), more


def test_what_the_recipe_says_of_the_shape_counts_for_both():
    plain, got = (facts_of(choose(mixer, shape={"num_layers": 2}, match="params")) for mixer in ("gqa", "mha"))
    assert got.parameters_total == pytest.approx(plain.parameters_total, rel=5e-3)
    assert plain.parameters_total < 0.7 * facts_of(choose("gqa")).parameters_total


def test_where_even_no_mlp_would_be_too_much_there_is_no_match():
    settings = choose("gqa", position=Choice(name="learned"), match="params")  # 32768 rows in a model of 4 M
    assert "params by shape.mlp_width: without any the count is 1" in unsupported_reason(settings, VOCAB)


def test_a_mixer_without_a_cache_of_its_own_width_has_nothing_to_match(tmp_path):
    path = tmp_path / "plain.py"
    source = catalog.path_of("mixer", "gqa").read_text().replace('    cache_knob="head_dim",\n', "")
    path.write_text(source)
    settings = ModelSettings(mixer=Choice(name="plain", path=str(path)), match="cache")
    assert "nothing to turn in mixer plain" in unsupported_reason(settings, VOCAB)


def test_what_was_chosen_is_in_the_model_its_facts_and_its_checkpoint(tmp_path):
    settings = choose("mla", match="cache", shape={"num_layers": 1})
    decoder = build_decoder(settings, vocab_tokens=96, seed=0, device="cpu")
    assert decoder.block(0).mixer.latent_rank == 224
    checkpoint.save(decoder, settings, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    x = torch.arange(9)[None]
    assert torch.equal(again(x), decoder(x))
    expected = {"mixer.latent_rank": 224.0, "target.cache_bytes_per_token": 256.0}
    assert costs.facts(again, 4, 8).adjusted == costs.facts(decoder, 4, 8).adjusted == expected
    saved_settings, _ = checkpoint.describe(tmp_path / "model")
    assert saved_settings.mixer.options == {"latent_rank": 224}
    checkpoint.save(again, saved_settings, tmp_path / "twice")
    assert torch.equal(checkpoint.load(tmp_path / "twice")(x), decoder(x))


REFUSED = [
    ({"position": Choice(name="learned", options={"max_positions": 128})}, "256 tokens exceed the 128 positions"),
    ({"mixer": Choice(name="mla"), "position": Choice(name="alibi")}, "one rotary key that all heads share"),
    ({"mixer": Choice(name="mla"), "position": Choice(name="relative")}, "one rotary key that all heads share"),
    ({"mixer": Choice(name="mla"), "shape": {"rotary_share": 0.5}}, "rope_dim"),
    ({"mixer": Choice(name="mla"), "preset": Choice(name="pythia")}, "rotary_share to 1"),
    ({"mixer": Choice(name="mla"), "shape": {"qk_norm": True}}, "qk_norm"),
    ({"shape": {"head_dim": 33}}, "33 numbers of a head are no pairs"),
    ({"shape": {"head_dim": 36, "rotary_share": 0.25}}, r"9 numbers of a head \(shape.rotary_share 0.25 of 36\)"),
]


@pytest.mark.parametrize(("settings", "reason"), REFUSED)
def test_parts_that_do_not_go_together_are_known_before_anything_is_allocated(settings, reason, monkeypatch):
    import re

    settings = ModelSettings(**settings)
    said = unsupported_reason(settings, VOCAB)
    assert re.search(reason, said) and "\n" not in said
    where = []
    plain = torch.empty

    def noted(*args, **kwargs):
        made = plain(*args, **kwargs)
        where.append(made.device.type)
        return made

    monkeypatch.setattr(torch, "empty", noted)
    with pytest.raises(Unsupported, match=reason):
        build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    assert set(where) == {"meta"}


def test_what_goes_together_has_no_reason_against_it():
    for preset in catalog.names("preset"):
        assert unsupported_reason(ModelSettings(preset=Choice(name=preset)), VOCAB) == ""


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"size": "tinny"}, UnknownNameError),
        ({"mixer": Choice(name="mla2")}, UnknownNameError),
        ({"mlp": Choice(name="dense", options={"x": 1})}, UserError),
        ({"shape": {"num_heads": 3}}, UserError),
    ],
)
def test_wrong_use_is_no_reason_but_an_error(settings, error):
    with pytest.raises(error):
        unsupported_reason(ModelSettings(**settings), VOCAB)


def test_the_question_is_cheap_at_the_largest_size():
    settings = ModelSettings(size="72b", mixer=Choice(name="mha"), match="flops")
    unsupported_reason(settings, VOCAB)
    begin_s = time.perf_counter()
    assert unsupported_reason(ModelSettings(size="72b"), 152_064) == ""
    plain_s = time.perf_counter() - begin_s
    assert unsupported_reason(settings, 152_064) == ""
    matched_s = time.perf_counter() - begin_s - plain_s
    assert plain_s < 0.2 and matched_s < 2, f"{plain_s:.3f} s, with match {matched_s:.3f} s"
