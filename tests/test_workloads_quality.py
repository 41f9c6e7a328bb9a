"""Quality of a model that is served: domain by domain, against a reference, row by row, and by questions."""

import json

import pytest
import torch

from efficientllm.adapters._tree import adaptable
from efficientllm.bench.job import JobFile
from efficientllm.bench.worker import run_job
from efficientllm.data.prepare import prepare
from efficientllm.data.questions_reader import asked_of, open_questions
from efficientllm.devices.choose import open_device
from efficientllm.engines._logits import continuation_nats, logits_of, row_nats
from efficientllm.engines.native import NativeEngine, open_native
from efficientllm.meters.marks import Marks
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.models.mixers._probe import position_with
from efficientllm.models.streamed import streamed_hidden
from efficientllm.precision.pack import pack_frozen
from efficientllm.records import events
from efficientllm.records.choice import Choice
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.settings import Grid, InferenceSettings
from efficientllm.records.trial import make_trial
from efficientllm.workloads import inference
from efficientllm.workloads.questions import Examiner
from efficientllm.workloads.teller import DecoderTeller, EngineTeller, reference_choice
from efficientllm.workloads.texts import Gap, TextJudge, divergence

SMALL = {"num_layers": 2, "width": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "mlp_width": 96}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A corpus, a domain and two sets of questions, and a model that knows nothing, rough enough to have opinions."""
    folder = tmp_path_factory.mktemp("quality")
    for name, word in (("corpus", "line"), ("medicine", "dose")):
        (folder / name).mkdir()
        for n in range(40):
            lines = "".join(f"{word} {n * 7 + j} of many follows {word} {j}\n" for j in range(30))
            (folder / name / f"{n:02}.txt").write_text(lines)
    asked = [{"question": f"line {n} of", "choices": ["many", "few", "none"], "answer": 0} for n in range(20)]
    (folder / "quiz.jsonl").write_text("\n".join(map(json.dumps, asked)))
    said = [{"prompt": f"line {n} of", "answer": "many"} for n in range(6)]
    (folder / "said.jsonl").write_text("\n".join(map(json.dumps, said)))
    settings = settings_of(folder)
    prepared = prepare(settings, folder / "cache")
    decoder = rough(build_decoder(settings, vocab_tokens=prepared.tokenizer.vocab_tokens, seed=0, device="cpu"))
    checkpoint.save(decoder, settings, folder / "model")
    return folder


def settings_of(folder, **more):
    fields = {"heldout_tokens": 512, "sequence_tokens": 64, "vocab_tokens": 320, "prefill": (), "decode": ()}
    fields |= {"domains": {"medicine": Choice(name=str(folder / "medicine"))}}
    return InferenceSettings(shape=SMALL, corpus=Choice(name=str(folder / "corpus")), **{**fields, **more})


def rough(decoder):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return decoder


def packed(decoder, precision):
    pack_frozen([(o, a) for o, a, _, _ in list(adaptable(decoder))], Choice(name=precision))
    return decoder


def told(events_file):
    """Return window -> figures, reasons and series of what was said."""
    said, _ = events.decode_events(events_file.read_bytes())
    names = {e.window: e.name for e in said if isinstance(e, events.Opened)}
    found = {name: {"figures": {}, "absent": {}, "series": {}} for name in (*names.values(), None)}
    for e in said:
        name = names.get(getattr(e, "window", None))
        if isinstance(e, events.Figure):
            found[name]["figures"][e.name] = e.value
        elif isinstance(e, events.Missing):
            found[name]["absent"][e.name] = e.reason
        elif isinstance(e, events.Values):
            found[name]["series"].setdefault(e.name, []).extend(e.values)
        elif isinstance(e, events.Closed):
            found[name]["ended"] = e.outcome, e.reason
    return found


def run(settings, text, folder):
    trial = make_trial(settings=settings, protocol=PROTOCOLS["smoke"], device="cpu", seed=0, repeat=0)
    device = open_device("cpu")
    marks = Marks(folder / "events.jsonl", device, trial.protocol)
    job = JobFile(trial=trial, cache=str(text / "cache"), threads=1, parent_artifact=str(text / "model"))
    end = run_job(job, marks, device)
    marks.close()
    return end, told(folder / "events.jsonl")


def judged(text, folder, decoder, reference):
    """Judge a decoder against another one, without a trial around it."""
    settings, device = settings_of(text), open_device("cpu")
    marks = Marks(folder / "events.jsonl", device, PROTOCOLS["smoke"])
    engine = NativeEngine(decoder, settings, 0)
    TextJudge(EngineTeller(engine), reference, "alone", settings, marks).judge(prepare(settings, text / "cache"))
    marks.close()
    return told(folder / "events.jsonl")


def test_each_domain_has_its_window_its_rows_and_its_simple_lines(text, tmp_path):
    end, found = run(settings_of(text), text, tmp_path)
    assert end.outcome == "ok", end.reason
    for name in ("quality", "quality_medicine"):
        figures, rows = found[name]["figures"], found[name]["series"]["row_nats"]
        assert len(rows) * 64 == figures["heldout_tokens"] == 512
        assert sum(rows) / 512 == pytest.approx(figures["heldout_nats_per_token"])
        assert figures["smallest_detectable_rise_nats"] > 0
        assert "nothing to compare" in found[name]["absent"]["kl_nats_per_token"]
    assert found["quality"]["figures"] != found["quality_medicine"]["figures"]
    lines = found[None]["figures"]
    assert lines["unigram_medicine_bits_per_byte"] > lines["bz2_medicine_bits_per_byte"] > 0


def test_the_rows_are_scored_as_the_decoder_scores_them(text):
    decoder, settings = checkpoint.load(text / "model"), settings_of(text)
    rows = torch.randint(0, 300, (5, 33), generator=torch.Generator().manual_seed(1))
    expected = [float(decoder.loss_sum(row[None, :-1], row[None, 1:])[0]) for row in rows]
    engine = NativeEngine(decoder, settings, 0)
    assert row_nats(engine, rows) == pytest.approx(expected, rel=1e-5)
    assert row_nats(Blunt(engine), rows) == pytest.approx(expected, rel=1e-5)


class Blunt:
    """An engine that tells no logits of its own accord."""

    def __init__(self, engine):
        self.begin, self.prefill, self.decode, self.score = engine.begin, engine.prefill, engine.decode, engine.score


@pytest.mark.parametrize("mixer", ["gqa", "mla", "mamba2"])
def test_an_engine_without_logits_is_asked_token_by_token_for_the_same(mixer):
    position = Choice(name=position_with(mixer))
    settings = InferenceSettings(shape=SMALL, mixer=Choice(name=mixer), position=position)
    engine = open_native(settings, folder=None, vocab_tokens=96, seed=0, device="cpu", threads=0)
    tokens = torch.randint(0, 96, (3, 12), generator=torch.Generator().manual_seed(1))
    whole = torch.cat([piece.clone() for piece in logits_of(engine, tokens)], dim=1)
    one_by_one = torch.cat([piece.clone() for piece in logits_of(Blunt(engine), tokens)], dim=1)
    assert whole.shape == (3, 12, 96)
    torch.testing.assert_close(whole, one_by_one, atol=1e-4, rtol=1e-4)


def test_padding_does_not_change_the_likelihood_of_a_continuation():
    settings = InferenceSettings(shape=SMALL)
    engine = open_native(settings, folder=None, vocab_tokens=96, seed=0, device="cpu", threads=0)
    pairs = [([1, 2, 3], [4]), ([5], [6, 7, 8, 9, 10]), ([11, 12], [13, 14])]
    together, alone = continuation_nats(engine, pairs), [continuation_nats(engine, [pair])[0] for pair in pairs]
    assert [nats for nats, _ in together] == pytest.approx([nats for nats, _ in alone], rel=1e-4)
    greedy = engine.generate(torch.tensor([[1, 2, 3]]), 4)[0].tolist()
    wrong = [*greedy[:-1], (greedy[-1] + 1) % 96]
    assert [is_greedy for _, is_greedy in continuation_nats(engine, [([1, 2, 3], greedy), ([1, 2, 3], wrong)])] == [
        True,
        False,
    ]


def test_a_model_is_at_no_distance_from_itself_and_a_quantised_one_at_some(text, tmp_path):
    for folder in ("same", "int4"):
        (tmp_path / folder).mkdir()
    reference = DecoderTeller("float32", checkpoint.load(text / "model"), CPU, streamed=False)
    same = judged(text, tmp_path / "same", checkpoint.load(text / "model"), reference)["quality_medicine"]["figures"]
    assert same["kl_nats_per_token"] == pytest.approx(0.0, abs=1e-6)
    assert same["top1_agreement_ratio"] == 1.0
    found = judged(text, tmp_path / "int4", packed(checkpoint.load(text / "model"), "int4"), reference)["quality"]
    assert found["figures"]["kl_nats_per_token"] > 1e-5
    assert 0.2 < found["figures"]["top1_agreement_ratio"] < 1.0
    assert found["absent"]["kl_p99_nats"] == "p99 needs 1000 samples, there are 512"


def test_the_divergence_is_the_textbook_sum_and_shuffled_logits_are_far(text):
    generator = torch.Generator().manual_seed(0)
    own, reference = torch.randn(2, 3, 50, generator=generator), torch.randn(2, 3, 50, generator=generator)
    p, q = reference.double().softmax(-1), own.double().softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(divergence(reference, own).double(), expected, atol=1e-5, rtol=1e-4)
    gap = Gap()
    gap.add(reference[..., torch.randperm(50, generator=generator)], reference)
    assert torch.cat(gap.kl).mean() > 0.1 and gap.agreed < gap.tokens


@pytest.mark.parametrize("mixer", ["gqa", "mamba2", "nsa"])
def test_layer_by_layer_gives_what_the_whole_model_gives(mixer):
    settings = InferenceSettings(shape=SMALL, mixer=Choice(name=mixer), position=Choice(name=position_with(mixer)))
    decoder = rough(build_decoder(settings, vocab_tokens=96, seed=0, device="cpu")).eval()
    rows = torch.randint(0, 96, (5, 40), generator=torch.Generator().manual_seed(1))
    before = {name: p.clone() for name, p in decoder.named_parameters()}
    with torch.no_grad():
        torch.testing.assert_close(streamed_hidden(decoder, rows, CPU, 2), decoder.hidden(rows), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(p, before[name]) for name, p in decoder.named_parameters())


def test_a_streamed_reference_says_what_a_held_one_says(text, tmp_path):
    figures = {}
    for streamed in (False, True):
        folder = tmp_path / str(streamed)
        folder.mkdir()
        reference = DecoderTeller("float32", checkpoint.load(text / "model"), CPU, streamed=streamed)
        figures[streamed] = judged(text, folder, packed(checkpoint.load(text / "model"), "nf4"), reference)
    for name in ("quality", "quality_medicine"):
        held, through = figures[False][name]["figures"], figures[True][name]["figures"]
        assert held.pop("reference_streamed") == 0.0 and through.pop("reference_streamed") == 1.0
        assert through["kl_nats_per_token"] == pytest.approx(held["kl_nats_per_token"], rel=1e-3)
        assert through["top1_agreement_ratio"] == pytest.approx(held["top1_agreement_ratio"], abs=0.01)


def test_a_model_too_big_for_the_device_still_has_its_quality(text, tmp_path, monkeypatch):
    end, whole = run(settings_of(text), text, tmp_path)

    def too_big(*_):
        raise torch.OutOfMemoryError("tried to allocate 140 GiB")

    monkeypatch.setattr(inference, "_open_engine", too_big)
    (tmp_path / "big").mkdir()
    asked = settings_of(text, decode=(Grid(tokens=32),), questions=(Choice(name="recall"),))
    end, found = run(asked, text, tmp_path / "big")
    assert end.outcome == "ok"
    assert found["decode"]["ended"][0] == "oom" and found["task_recall"]["ended"][0] == "unsupported"
    assert found[None]["figures"]["quality_only"] == 1
    for name in ("quality", "quality_medicine"):
        mine, theirs = found[name]["figures"], whole[name]["figures"]
        assert mine["heldout_nats_per_token"] == pytest.approx(theirs["heldout_nats_per_token"], rel=1e-5)


def test_a_trial_is_compared_with_what_the_recipe_says_and_never_with_itself():
    compared = InferenceSettings(precision=Choice(name="int4"), against=Choice(name="bf16"))
    assert reference_choice(compared) == (Choice(name="bf16"), "")
    assert reference_choice(InferenceSettings(precision=Choice(name="int4"))) == (None, "")
    itself = InferenceSettings(precision=Choice(name="bf16"), against=Choice(name="bf16"))
    assert "others are compared with" in reference_choice(itself)[1]
    assert "others are compared with" in reference_choice(InferenceSettings(against=Choice(name="fp32")))[1]
    cached = InferenceSettings(cache=Choice(name="kv_int8"), precision=Choice(name="bf16"), against=Choice(name="bf16"))
    assert reference_choice(cached)[1] == ""


def test_questions_are_asked_in_windows_of_their_own_with_every_item(text, tmp_path):
    sets = (Choice(name=str(text / "quiz.jsonl")), Choice(name=str(text / "said.jsonl")), Choice(name="recall"))
    end, found = run(settings_of(text, questions=sets, asked=12), text, tmp_path)
    assert end.outcome == "ok", end.reason
    quiz = found["task_quiz"]
    assert quiz["figures"]["asked_items"] == 12 == len(quiz["series"]["item_right"]) == len(quiz["series"]["item_pick"])
    assert quiz["figures"]["accuracy_ratio"] == sum(quiz["series"]["item_right"]) / 12
    assert quiz["figures"]["chance_ratio"] == pytest.approx(1 / 3)
    assert quiz["figures"]["commonest_answer_ratio"] == 1.0
    assert {"accuracy_by_sum_ratio", "accuracy_standard_error_ratio"} <= quiz["figures"].keys()
    assert found["task_said"]["figures"]["asked_items"] == 6
    assert found["task_recall"]["figures"]["accuracy_ratio"] == 0.0


def test_the_right_choice_is_found_by_likelihood_and_the_right_words_by_greedy_decoding(text, tmp_path):
    """A model that was taught its quiz passes it; the answers then wrong fail it."""
    decoder, settings = checkpoint.load(text / "model"), settings_of(text)
    tokenizer = prepare(settings, text / "cache").tokenizer
    lines = [f"line {n} of many\n" for n in range(20)]
    batch = [torch.tensor([ids]) for ids in tokenizer.encode_batch(lines)]
    optimizer = torch.optim.AdamW(decoder.train().parameters(), lr=3e-3)
    for step in range(60):
        row = batch[step % len(batch)]
        decoder.losses(row[:, :-1], row[:, 1:])[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    checkpoint.save(decoder.eval(), settings, tmp_path / "taught")
    (tmp_path / "model").symlink_to(tmp_path / "taught")
    (tmp_path / "cache").symlink_to(text / "cache")
    asked = [{"question": f"line {n} of", "choices": ["few", "many"], "answer": "B"} for n in range(20)]
    (tmp_path / "wrong.jsonl").write_text("\n".join(json.dumps({**one, "answer": "few"}) for one in asked))
    (tmp_path / "right.jsonl").write_text("\n".join(map(json.dumps, asked)))
    sets = tuple(Choice(name=str(p)) for p in (tmp_path / "right.jsonl", tmp_path / "wrong.jsonl", text / "said.jsonl"))
    _, found = run(settings_of(text, questions=sets), tmp_path, tmp_path)
    shares = [found[f"task_{name}"]["figures"]["accuracy_ratio"] for name in ("right", "wrong", "said")]
    assert shares == [1.0, 0.0, 1.0]


def examined(text, template, tokenizer, folder=None, **shots):
    settings = settings_of(text, question_template=template)
    examiner = Examiner(None, tokenizer, folder, settings, None)
    choice = Choice(name=str(text / "quiz.jsonl"), options=shots)
    return examiner._prompts(asked_of(open_questions(choice), choice, 3))


def test_examples_stand_with_their_answers_before_each_question(text):
    tokenizer = prepare(settings_of(text), text / "cache").tokenizer
    shown = examined(text, "none", tokenizer, shots=2)
    lines = ["line 0 of many\n\nline 1 of many\n\n" + f"line {n} of" for n in (2, 3, 4)]
    assert [tokenizer.decode(ids) for ids in shown] == lines
    assert [tokenizer.decode(ids) for ids in examined(text, "none", tokenizer)] == [
        "line 0 of",
        "line 1 of",
        "line 2 of",
    ]
    end, encode = tokenizer.end_of_text, tokenizer.encode_batch
    first, answer, asked = encode(["line 0 of\n\n", "many", "line 1 of\n\n"])
    assert examined(text, "plain", tokenizer, shots=1)[0] == [*first, *answer, end, *asked]


def test_a_chat_template_shows_examples_as_turns_and_never_the_answer(text, tmp_path):
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source}))
    tokenizer = prepare(settings_of(text), text / "cache").tokenizer
    alone = examined(text, "model", tokenizer, tmp_path)
    assert tokenizer.decode(alone[0]) == "<user>line 0 of</s>\n<assistant>"
    shown = tokenizer.decode(examined(text, "model", tokenizer, tmp_path, shots=1)[0])
    assert shown == "<user>line 0 of</s>\n<assistant>many</s>\n<user>line 1 of</s>\n<assistant>"


def test_with_examples_a_set_has_a_window_of_its_own_and_only_the_others_are_scored(text, tmp_path):
    quiz, said = text / "quiz.jsonl", text / "said.jsonl"
    sets = tuple(Choice(name=str(path), options={"shots": 2}) for path in (quiz, said))
    end, found = run(settings_of(text, questions=(*sets, Choice(name=str(quiz))), asked=12), text, tmp_path)
    assert end.outcome == "ok", end.reason
    assert found["task_quiz_2_shot"]["figures"]["asked_items"] == 12
    assert found["task_quiz_2_shot"]["figures"]["shots"] == 2
    assert (
        found["task_said_2_shot"]["figures"]["asked_items"]
        == 4
        == len(found["task_said_2_shot"]["series"]["item_right"])
    )
    assert "shots" not in found["task_quiz"]["figures"]


def test_a_harness_that_is_not_installed_is_named_with_its_extra(text, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    asked = (Choice(name="lm_eval", options={"task": "hellaswag"}),)
    end, found = run(settings_of(text, questions=asked), text, tmp_path)
    assert end.outcome == "ok"
    outcome, reason = found["task_hellaswag"]["ended"]
    assert outcome == "unsupported" and "efficientllm[evals]" in reason
