"""Every engine of the folder gives what plain teacher forcing in float32 gives, whatever way it takes there."""

import msgspec
import pytest
import torch
import torch.nn.functional as F

from efficientllm import catalog, registry
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import checkpoint, costs
from efficientllm.models.assemble import assemble
from efficientllm.models.build import build_decoder
from efficientllm.models.mixers._probe import position_with
from efficientllm.models.shape import resolve_shape
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

ENGINES, MIXERS = catalog.names("engine"), catalog.names("mixer")
#: Compiling takes half a minute: what a compiled step gives is proved apart.
OPTIONS = {"transformers_static": {"compiled": False}}
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SHAPE = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96}
VOCAB = 96
#: Of two logits; less may tip with the order of a sum.
MARGIN = 1e-3


def settings_for(mixer="gqa", **more):
    position = Choice(name=position_with(mixer))
    return InferenceSettings(shape=SHAPE, mixer=Choice(name=mixer), position=position, sequence_tokens=32, **more)


def has_family(mixer):
    """Whether models with this mixer are of a family that transformers has."""
    settings = settings_for(mixer)
    outline = assemble(resolve_shape(settings, VOCAB), settings, device="meta", dtype=torch.float32)
    return checkpoint.family_of_decoder(outline) is not None


SERVED = [(e, m) for e in ENGINES for m in MIXERS if not e.startswith("transformers") or has_family(m)]
REFUSED = [(e, m) for e in ENGINES for m in MIXERS if (e, m) not in SERVED]


def open_engine(engine, device, folder=None, seed=0, **more):
    settings = settings_for(engine=Choice(name=engine, options=OPTIONS.get(engine, {})), **more)
    entry = registry.load("engine", engine)
    return entry.open(settings, folder=folder, vocab_tokens=VOCAB, seed=seed, device=device, threads=0)


def tokens(rows, length):
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(7))


def saved(folder, mixer):
    """Save a model whose weights are rough enough to show faults; return its logits by the plain reference."""
    settings = settings_for(mixer)
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    checkpoint.save(decoder, settings, folder)
    for number in range(decoder.shape.num_layers):
        layer = decoder.block(number).mixer
        layer.forward = lambda x, positions, state, ids, layer=layer: layer.reference(x, positions, ids)
    return decoder


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("engine", "mixer"), SERVED)
def test_prefill_and_decode_give_the_logits_of_teacher_forcing(engine, mixer, batch, device, tmp_path):
    x = tokens(batch, 47)
    reference = saved(tmp_path / "model", mixer)
    with torch.no_grad():
        expected = reference(x)
    served = open_engine(engine, device, tmp_path / "model", mixer=mixer)
    served.begin(batch, 47)
    got = [served.prefill(x[:, :29]).cpu().clone(), served.prefill(x[:, 29:40]).cpu().clone()]
    got += [served.decode(x[:, place].to(served.device)).cpu().clone() for place in range(40, 47)]
    assert served.length == 47
    wanted = [expected[:, place] for place in (28, *range(39, 47))]
    for logits, reference_logits in zip(got, wanted, strict=True):
        assert logits.shape == (batch, VOCAB)
        torch.testing.assert_close(logits, reference_logits, atol=1e-4, rtol=1e-4)
    served.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("engine", "mixer"), SERVED)
def test_a_long_prompt_in_bounded_pieces_gives_the_logits_of_one_piece(engine, mixer, device, tmp_path):
    x = tokens(2, 1300)
    reference = saved(tmp_path / "model", mixer)
    with torch.no_grad():
        expected = reference(x, last_only=True)[:, 0]
    served = open_engine(engine, device, tmp_path / "model", mixer=mixer)
    served.begin(2, 1301)
    torch.testing.assert_close(served.prefill(x).cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("engine", "mixer"), SERVED)
def test_a_rewind_takes_decoding_back(engine, mixer, device):
    served, x = open_engine(engine, device, mixer=mixer), tokens(2, 20)
    served.begin(2, 40)
    served.prefill(x[:, :15])
    served.mark()
    first = [served.decode(x[:, place]).clone() for place in (15, 16, 17)]
    served.rewind(15)
    assert served.length == 15
    again = [served.decode(x[:, place]).clone() for place in (15, 16, 17)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    served.rewind(0)
    served.prefill(x[:, :15])
    torch.testing.assert_close(served.decode(x[:, 15]), first[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("engine", "mixer"), SERVED)
def test_a_new_batch_owes_nothing_to_the_one_before(engine, mixer, device):
    served, x = open_engine(engine, device, mixer=mixer), tokens(3, 20)
    for batch, room in ((3, 20), (1, 64), (2, 20)):
        served.begin(batch, room)
        assert served.length == 0
        served.prefill(x[:batch, :10])
        served.decode(x[:batch, 10])
    fresh = open_engine(engine, device, mixer=mixer)
    fresh.begin(2, 20)
    fresh.prefill(x[:2, :10])
    fresh.decode(x[:2, 10])
    torch.testing.assert_close(served.decode(x[:2, 11]), fresh.decode(x[:2, 11]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("engine", "mixer"), SERVED)
def test_the_score_is_the_summed_cross_entropy_of_every_token_but_the_first(engine, mixer, device, tmp_path):
    x = tokens(50, 32)
    reference = saved(tmp_path / "model", mixer)
    with torch.no_grad():
        expected = F.cross_entropy(reference(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten(), reduction="sum").item()
    served = open_engine(engine, device, tmp_path / "model", mixer=mixer)
    nats, count = served.score(x)
    assert count == 50 * 31
    assert nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ENGINES)
def test_scoring_leaves_the_present_batch_alone(engine, device):
    served, x = open_engine(engine, device), tokens(2, 20)
    served.begin(2, 20)
    served.prefill(x[:, :10])
    served.mark()
    first = served.decode(x[:, 10]).clone()
    served.rewind(10)
    served.score(x)
    assert torch.equal(served.decode(x[:, 10]), first)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ENGINES)
def test_greedy_generation_takes_the_likeliest_token_each_time(engine, device, tmp_path):
    x = tokens(2, 9)
    reference = saved(tmp_path / "model", "gqa")
    sequence = x
    for _ in range(8):
        with torch.no_grad():
            sequence = torch.cat([sequence, reference(sequence, last_only=True).argmax(-1)], 1)
    served = open_engine(engine, device, tmp_path / "model")
    assert served.generate(x, 8).tolist() == sequence[:, 9:].tolist()


def first_tokens_that_agree(reference, prompt, given):
    """Return how many tokens must be equal: all up to the first that two are all but equally likely for."""
    sequence = torch.tensor([prompt])
    for place in range(len(given)):
        with torch.no_grad():
            best = reference(sequence, last_only=True)[0, 0].topk(2)
        if best.values[0] - best.values[1] < MARGIN:
            return place
        assert given[place] == best.indices[0], f"token {place} after a prompt of {len(prompt)}"
        sequence = torch.cat([sequence, best.indices[:1, None]], 1)
    return len(given)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("engine", "mixer"), SERVED)
def test_ragged_prompts_each_get_what_they_get_alone(engine, mixer, device, tmp_path):
    reference = saved(tmp_path / "model", mixer)
    served = open_engine(engine, device, tmp_path / "model", mixer=mixer)
    prompts = [tokens(1, length)[0].tolist() for length in (7, 1, 12, 7)]
    made = served.generate(prompts, 8)
    assert made.shape == (4, 8)
    agreed = [first_tokens_that_agree(reference, *pair) for pair in zip(prompts, made.tolist(), strict=True)]
    assert sum(agreed) > 24  # or the margins leave nothing to see
    assert served.generate(prompts[1:2], 1).tolist() == made[1:2, :1].tolist()


@pytest.mark.parametrize(("engine", "mixer"), REFUSED)
def test_a_mixer_of_no_family_is_unsupported_with_the_reason_saved_or_not(engine, mixer, tmp_path):
    saved(tmp_path / "model", mixer)
    for folder in (None, tmp_path / "model"):
        with pytest.raises(Unsupported, match=f"mixer {mixer} .* of no family .* without a cache"):
            open_engine(engine, "cpu", folder, mixer=mixer)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_weights_are_held_in_the_format_asked_for_and_counted(engine, dtype, device, tmp_path):
    saved(tmp_path / "model", "gqa")
    served = open_engine(engine, device, tmp_path / "model", dtype=dtype)
    facts, size = served.facts(), getattr(torch, dtype).itemsize
    assert served.weight_bytes == facts.weight_bytes == size * facts.parameters_total
    assert facts.cache_bytes_per_token == 2 * 2 * 2 * 16 * size
    assert facts.disk_bytes == checkpoint.weight_file_bytes(tmp_path / "model") > 4 * facts.parameters_total
    full = open_engine(engine, device, tmp_path / "model")
    for one in (served, full):
        one.begin(1, 12)
        one.prefill(tokens(1, 11))
    got, expected = (one.decode(tokens(1, 12)[:, 11]).float() for one in (served, full))
    assert (got - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ENGINES)
def test_random_weights_come_from_the_seed(engine, device):
    x = tokens(4, 30)
    scores = [open_engine(engine, device, seed=seed).score(x)[0] for seed in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_work_is_that_of_the_model(engine):
    served = open_engine(engine, "cpu")
    decoder = build_decoder(settings_for(), vocab_tokens=VOCAB, seed=0, device="cpu")
    assert served.decode_work(3, 100) == costs.decode_work(decoder, 3, 100)
    assert served.prefill_work(2, 100) == costs.prefill_work(decoder, 2, 100)
    told = msgspec.structs.replace(served.facts(), implementations={})  # each engine has its own
    assert told == msgspec.structs.replace(costs.facts(decoder, 4, 32), implementations={})


@pytest.mark.parametrize("engine", ENGINES)
def test_running_out_of_room_stops_at_once(engine):
    served = open_engine(engine, "cpu")
    served.begin(1, 4)
    served.prefill(tokens(1, 4))
    with pytest.raises(AssertionError, match="room for 4"):
        served.decode(tokens(1, 5)[:, 4])


@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_settings_are_a_users_error(engine):
    with pytest.raises(UserError, match="Did you mean 'bfloat16'"):
        open_engine(engine, "cpu", dtype="bfloat61")
    settings = settings_for(engine=Choice(name=engine, options={"graphs": True}))
    with pytest.raises(UserError, match="unknown option 'graphs'"):
        registry.load("engine", engine).open(settings, folder=None, vocab_tokens=VOCAB, seed=0, device="cpu", threads=0)


@pytest.mark.parametrize("device", ["meta"] if torch.cuda.is_available() else ["meta", "cuda"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_device_that_is_not_there_is_unsupported(engine, device):
    with pytest.raises(Unsupported):
        open_engine(engine, device)


@pytest.mark.prove
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mixer", MIXERS)
def test_the_compiled_engine_gives_the_logits_of_teacher_forcing(mixer, device, tmp_path):
    x = tokens(2, 40)
    reference = saved(tmp_path / "model", mixer)
    with torch.no_grad():
        expected = reference(x)
    served = open_engine("native", device, tmp_path / "model", mixer=mixer, compile=True)
    served.begin(2, 48)
    got = [served.prefill(x[:, :33]).clone()] + [served.decode(x[:, place]).clone() for place in range(33, 40)]
    torch.testing.assert_close(torch.stack(got, 1).cpu(), expected[:, 32:], atol=1e-4, rtol=1e-4)


@pytest.mark.prove
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [{}, {"sliding_window": 9}], ids=["full", "window"])
def test_the_compiled_step_over_a_static_cache_gives_the_logits_of_teacher_forcing(shape, device, tmp_path):
    x = tokens(2, 40)
    settings = InferenceSettings(shape={**SHAPE, **shape}, engine=Choice(name="transformers_static"))
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    checkpoint.save(decoder, settings, tmp_path / "model")
    with torch.no_grad():
        expected = decoder(x)
    entry = registry.load("engine", "transformers_static")
    served = entry.open(settings, folder=tmp_path / "model", vocab_tokens=VOCAB, seed=0, device=device, threads=0)
    for room in (40, 48):  # the second batch is captured anew
        served.begin(2, room)
        got = [served.prefill(x[:, :33]).clone()]
        served.mark()
        for _ in range(2):
            got = [*got[:1], *(served.decode(x[:, place]).clone() for place in range(33, 40))]
            torch.testing.assert_close(torch.stack(got, 1).cpu(), expected[:, 32:], atol=1e-4, rtol=1e-4)
            served.rewind(33)
