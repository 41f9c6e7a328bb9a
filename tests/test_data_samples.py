"""Instruction data in tokens: what is learned, what is cut and dropped, how rows are packed; templates of real models."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficientllm.data import _pack_rows
from efficientllm.data._encode_samples import Encoded, encode_samples
from efficientllm.data._pack_rows import PackedRows, best_fit, pack_rows
from efficientllm.data._response_floor import commonest_of, floor_figures
from efficientllm.data.chat import PlainTemplate, template_of
from efficientllm.data.instructions._contract import Message, Sample, pair, prompt_of
from efficientllm.data.instructions._example import example_pairs
from efficientllm.data.samples import batch_rows, prepare_instructions
from efficientllm.data.tokenizer import END_OF_TEXT, Tokenizer
from efficientllm.errors import DataError
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings

#: Templates as real model folders have them, shortened of what tools need.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
#: As reasoning models do: earlier turns lose their thoughts, the last one gets an empty one, and is asked for with it.
REASONING = """
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {{- '<|im_start|>assistant\n' + ('<think></think>' if loop.last else '') + message.content + '<|im_end|>\n' }}
        {%- endgeneration %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>' }}
{%- endif %}
"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL}
SPECIAL = [END_OF_TEXT, "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<s>"]

TALK = Sample(
    messages=(
        Message("user", "Hi."),
        Message("assistant", "Hello!"),
        Message("user", "2 + 2?"),
        Message("assistant", "It is 4."),
    )
)


def model_folder(folder: Path, template: object, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", **more}
    text = json.dumps({"chat_template": template, **tokens} if template else tokens)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level tokenizer that knows the special tokens of several model families."""
    import tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    level = tokenizers.pre_tokenizers.ByteLevel
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer, inner.decoder = level(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=level.alphabet(), show_progress=False
    )
    inner.train_from_iterator([q + a for q, a in example_pairs(20)], trainer)
    inner.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json", END_OF_TEXT)


def spelled(tokenizer, ids) -> str:
    """Text of ids, special tokens spelled out."""
    return "".join(SPECIAL[i] if i < len(SPECIAL) else tokenizer.decode([i]) for i in ids)


def settings_of(path, **more) -> FinetuneSettings:
    fields = {"tokens": 4000, "sequence_tokens": 64, "heldout_samples": 8, "instructions": Choice(name=str(path))}
    return FinetuneSettings(**{**fields, **more})


def lines(path: Path, pairs) -> Path:
    path.write_text("".join(json.dumps({"prompt": q, "response": a}) + "\n" for q, a in pairs), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gives_the_text_that_transformers_gives_and_learns_the_assistants_words_alone(name, tmp_path):
    from transformers.utils.chat_template_utils import render_jinja_template

    folder = model_folder(tmp_path, TEMPLATES[name])
    turns = template_of(folder, "model").turns(TALK)
    messages = [{"role": m.role, "content": m.content} for m in TALK.messages]
    given = {"chat_template": TEMPLATES[name], "bos_token": "<s>", "eos_token": "<|im_end|>"}
    rendered, _ = render_jinja_template([messages], **given)
    assert "".join(text for text, _ in turns) == rendered[0]
    end = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "<|im_end|>"}[name]
    assert [text for text, learned in turns if learned] == ["Hello!" + end, "It is 4." + end]
    asked, _ = render_jinja_template([messages[:-1]], add_generation_prompt=True, **given)
    last = max(place for place, (_, learned) in enumerate(turns) if learned)
    assert "".join(text for text, _ in turns[:last]) == asked[0], "a prompt alone is what is trained on"


@pytest.mark.parametrize(
    ("thought", "learned"), [("<think></think>", "</think>It is 4.<|im_end|>"), ("", "It is 4.<|im_end|>")]
)
def test_a_template_that_rewrites_earlier_turns_learns_the_last_one_alone(thought, learned, tmp_path):
    template = template_of(model_folder(tmp_path, REASONING.replace("<think></think>", thought)), "model")
    turns = template.turns(TALK)
    assert [text for text, is_learned in turns if is_learned] == [learned]
    before = turns[0][0]
    assert before.endswith("<|im_start|>assistant\n<think>"), "the prompt is what a model is asked with"
    assert before.count("Hello!") == 1 and turns[-1] == ("\n", False)


def test_where_a_folder_keeps_its_template(tmp_path):
    sample = pair("a", "b")
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
    by_list = template_of(model_folder(tmp_path / "list", named), "model")
    in_file = model_folder(tmp_path / "file", "no")
    (in_file / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    assert by_list.turns(sample) == template_of(in_file, "model").turns(sample)
    assert by_list.sha256 == template_of(in_file, "model").sha256
    own = model_folder(tmp_path / "own", CHATML)
    (own / "efficientllm.json").write_text("{}")
    for folder, chosen in (None, "model"), (own, "model"), (tmp_path / "list", "plain"):
        assert template_of(folder, chosen).turns(sample) == [("a\n\n", False), ("b", True)]


def test_what_a_template_may_not_or_cannot_do_is_one_line(tmp_path):
    def refused(template, sample=TALK):
        with pytest.raises(DataError) as error:
            template_of(model_folder(tmp_path, template), "model").turns(sample)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "has no chat template" in refused(None) and "chat_template: plain" in refused(None)
    assert "cannot be read" in refused("{% for %}")
    assert "roles must alternate" in refused(MISTRAL, Sample(messages=(Message("system", "s"), *TALK.messages)))
    assert "refuses a sample" in refused("{{ messages.append(1) }}"), "the sandbox changes nothing"
    assert "does not write the assistant's words" in refused("{{ messages[0].content }}")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        template_of(tmp_path, "model")


def test_special_tokens_of_a_template_are_tokens_and_those_that_plain_text_spells_are_not(tokenizer, tmp_path):
    template = template_of(model_folder(tmp_path, CHATML), "model")
    (chat,) = encode_samples([pair("2+2", "4")], tokenizer, template, 999).samples
    ids = [SPECIAL.index(token) for token in ("<|im_start|>", "<|im_end|>")]
    assert [chat.tokens.tolist().count(i) for i in ids] == [3, 3]
    assert spelled(tokenizer, chat.tokens[chat.learned]) == "4<|im_end|>"
    (plain,) = encode_samples([pair("<|im_end|>", "<|endoftext|>")], tokenizer, PlainTemplate(), 999).samples
    assert ids[1] not in plain.tokens
    assert plain.tokens.tolist().count(tokenizer.end_of_text) == 1 and plain.tokens[-1] == tokenizer.end_of_text


def test_prompt_tokens_are_those_of_the_prompt_alone(tokenizer):
    sample = Sample(messages=(Message("system", "Be brief."), *TALK.messages))
    (encoded,) = encode_samples([sample], tokenizer, PlainTemplate(), 999).samples
    texts = ["Be brief.\n\n", "Hi.\n\n", "Hello!", "2 + 2?\n\n", "It is 4."]
    parts = tokenizer.encode_batch(texts)
    end = [tokenizer.end_of_text]
    prompt = parts[0] + parts[1] + parts[2] + end + parts[3]
    assert encoded.tokens[: encoded.prompt_tokens].tolist() == prompt
    assert encoded.tokens[encoded.prompt_tokens :].tolist() == parts[4] + end
    assert encoded.tokens[encoded.learned].tolist() == parts[2] + end + parts[4] + end
    assert (encoded.response, encoded.answer) == ("It is 4.", "")


def test_what_does_not_fit_is_cut_at_its_end_or_dropped_and_counted(tokenizer):
    prompt = len(tokenizer.encode_batch(["a b\n\n"])[0])
    samples = [pair("a b", "c"), pair("a b", "c" * 50), pair("a " * 50, "c")]
    for room, expected in (0, (0, 0, 3)), (1, (2, 50 + 1, 1)):
        kept = encode_samples(samples, tokenizer, PlainTemplate(), prompt + room)
        lengths = [len(tokenizer.encode_batch([s.messages[-1].content])[0]) + 1 for s in samples[:2]]
        assert (len(kept.samples), kept.num_truncated, kept.num_dropped) == (3 - expected[2], *expected[::2])
        assert kept.truncated_tokens == (sum(lengths) - 2 * room if room else 0)
    assert kept.figures()["num_truncated_samples"] == 2 and kept.samples[1].learned.sum() == 1
    nothing = encode_samples([pair("a", "")], tokenizer, PlainTemplate(), 64)
    assert len(nothing.samples) == 1, "the end of text is learned"


def encoded_samples(most=24):
    """Random samples, of which some turns are learned and the last one is."""

    def make(numbers):
        given, told, seed = numbers
        draws = np.random.default_rng(seed)
        learned = np.concatenate([draws.integers(0, 2, given).astype(bool), [False], np.ones(told, dtype=bool)])
        return Encoded(draws.integers(1, 50, len(learned)), learned, given + 1, "", "")

    numbers = st.tuples(st.integers(0, 10), st.integers(1, 12), st.integers(0, 2**32 - 1))
    return st.lists(numbers.map(make), min_size=1, max_size=most)


@settings(deadline=None, max_examples=60)
@given(samples=encoded_samples(), sequence_tokens=st.integers(23, 60))
def test_every_learned_token_is_a_target_exactly_once_and_nothing_else_is(samples, sequence_tokens):
    rows = PackedRows(pack_rows(samples, sequence_tokens))
    seen = []
    for row in range(rows.num_rows):
        ids = rows.sequence_ids[row]
        assert (np.diff(ids) >= 0).all() and (np.diff(ids) <= 1).all()
        for number in range(ids.max() + 1):
            inside = ids == number
            tokens, targets = rows.tokens[row][inside].tolist(), rows.targets[row][inside].tolist()
            is_target = [target != -100 for target in targets]
            assert not is_target[-1], "the next sample's first token is no target"
            assert all(target in (-100, after) for target, after in zip(targets, tokens[1:], strict=False))
            seen.append((tokens, [False, *is_target[:-1]]))
    padding = [([0] * len(tokens), [False] * len(tokens)) for tokens, _ in seen if not any(tokens)]
    plain = [(s.tokens.tolist(), [False, *s.learned[1:].tolist()]) for s in samples]
    assert sorted(seen) == sorted([*plain, *padding])
    assert rows.learned_targets.tolist() == [(row != -100).sum() for row in rows.targets]


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 20), max_size=60), capacity=st.integers(20, 50))
def test_best_fit_places_all_once_in_no_more_rows_than_next_fit(lengths, capacity):
    bins = best_fit(lengths, capacity)
    assert sorted(item for members in bins for item in members) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in members) <= capacity for members in bins)
    assert len(bins) <= 2 * sum(lengths) / capacity + 1


def test_open_rows_are_bounded(monkeypatch):
    monkeypatch.setattr(_pack_rows, "_OPEN_ROWS", 1)
    assert best_fit([6, 5, 4, 5], 10) == [[0], [1, 2], [3]], "the fullest row was closed"


@settings(deadline=None, max_examples=40)
@given(samples=encoded_samples(8), sequence_tokens=st.integers(2, 40))
def test_rows_of_evaluation_hold_one_sample_each(samples, sequence_tokens):
    tokens_BT, targets_BT = batch_rows(samples, sequence_tokens)
    assert tokens_BT.shape == targets_BT.shape == (len(samples), sequence_tokens)
    for sample, tokens, targets in zip(samples, tokens_BT, targets_BT, strict=True):
        kept = min(len(sample.tokens), sequence_tokens)
        assert tokens[:kept].tolist() == sample.tokens[:kept].tolist() and not tokens[kept:].any()
        expected = [int(t) if learned else -100 for t, learned in zip(sample.tokens, sample.learned, strict=True)]
        assert targets.tolist() == [*expected[1:kept], *[-100] * (sequence_tokens - kept + 1)]


def test_prepared_data_says_what_became_of_it_and_is_the_same_from_the_cache(tokenizer, tmp_path, monkeypatch):
    path = lines(tmp_path / "a.jsonl", [*example_pairs(200), *((f"{'long ' * 60}{i}", "x") for i in range(20))])
    prepared = prepare_instructions(settings_of(path), tokenizer, PlainTemplate(), tmp_path / "cache")
    rows, figures = prepared.train, prepared.figures
    assert figures["num_dropped_samples"] > 0 == figures["num_truncated_samples"]
    assert figures["num_rows"] == rows.num_rows and 0 <= figures["padding_ratio"] < 0.5
    assert figures["learned_ratio"] == rows.learned_targets.sum() / rows.tokens.size
    assert 0 < figures["num_tokens"] <= 4000 * 1.1 + 2 * 64
    assert prepared.details["layout"] == "prompt/response" and len(prepared.details["samples_sha256"]) == 64
    assert not rows.apart and len(prepared.heldout) == figures["heldout_num_samples"] == 8
    monkeypatch.setattr(_pack_rows, "pack_rows", None)
    again = prepare_instructions(settings_of(path), tokenizer, PlainTemplate(), tmp_path / "cache")
    assert np.array_equal(again.train.planes, rows.planes) and again.figures == figures
    monkeypatch.undo()
    (file,) = (tmp_path / "cache/samples").glob("*.rows")
    good = file.read_bytes()
    file.unlink()  # the mapped one keeps its bytes
    file.write_bytes(good[:-4] + b"abcd")
    mended = prepare_instructions(settings_of(path), tokenizer, PlainTemplate(), tmp_path / "cache")
    assert np.array_equal(mended.train.planes, rows.planes)


def test_what_is_tuned_on_is_not_what_judges_and_neither_is_trained_on(tokenizer, tmp_path):
    pairs = [(q, f"{a}{i}") for i in range(2) for q, a in example_pairs(150)]
    path = lines(tmp_path / "a.jsonl", pairs)
    said = {}
    for part in ("test", "valid"):
        of = settings_of(path, judged_on=part, heldout_samples=1000, tokens=10**6)
        prepared = prepare_instructions(of, tokenizer, PlainTemplate(), tmp_path / "cache")
        said[part] = {tokenizer.decode(s.tokens[: s.prompt_tokens].tolist()) for s in prepared.heldout}
        trained = tokenizer.decode(prepared.train.tokens.ravel().tolist())
    assert said["test"] and said["valid"] and not said["test"] & said["valid"]
    assert not any(prompt in trained for prompt in said["test"] | said["valid"])


def test_a_readers_own_splits_that_share_prompts_are_parted(tokenizer, tmp_path):
    reader = tmp_path / "mine.py"
    reader.write_text(
        "from efficientllm.data.instructions._contract import InstructionsEntry, pair\n"
        "class Mine:\n"
        "    details = {}\n"
        "    def samples(self, split):\n"
        "        return iter([pair(f'q {i}', 'a') for i in range(0 if split == 'train' else 10, 20)])\n"
        "    def fingerprint(self): return ''\n"
        "ENTRY = InstructionsEntry(title='Mine', open=Mine)\n"
    )
    prepared = prepare_instructions(settings_of(reader), tokenizer, PlainTemplate(), tmp_path / "cache")
    assert prepared.figures["num_samples"] == 10 and prepared.details["train_prompts_heldout_too"] == "10"


@pytest.mark.parametrize(
    ("give", "says"),
    [
        ("pair('a', 'b').messages", "is tuple, not a Sample"),
        ("Sample(messages=(Message('user', 'a'),))", "does not end with a turn of the assistant"),
        ("pair('a' + chr(0xD800), 'b')", "has half a surrogate pair"),
    ],
)
def test_what_a_users_reader_gives_wrongly_is_one_line(give, says, tokenizer, tmp_path):
    reader = tmp_path / "mine.py"
    reader.write_text(
        "from efficientllm.data.instructions._contract import InstructionsEntry, Message, Sample, pair\n"
        "class Mine:\n"
        "    details = {}\n"
        f"    def samples(self, split): return iter([{give}])\n"
        "    def fingerprint(self): return ''\n"
        "ENTRY = InstructionsEntry(title='Mine', open=Mine)\n"
    )
    with pytest.raises(DataError, match=says) as error:
        prepare_instructions(settings_of(reader), tokenizer, PlainTemplate(), tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_data_of_which_nothing_fits_or_nothing_is_answered_is_one_line(tokenizer, tmp_path):
    long = lines(tmp_path / "long.jsonl", [(q * 9, a) for q, a in example_pairs()])
    unanswered = lines(tmp_path / "unanswered.jsonl", [(q, "") for q, _ in example_pairs()])
    for path, says in (long, "leaves room for a response in sequence_tokens 64"), (unanswered, "with a response"):
        with pytest.raises(DataError, match=says) as error:
            prepare_instructions(settings_of(path), tokenizer, PlainTemplate(), tmp_path / "cache")
        assert "\n" not in str(error.value)


def test_equal_prompts_are_equal_whatever_their_white_space():
    assert prompt_of(pair("a b", "c")) == prompt_of(pair(" a\n b", "d")) != prompt_of(pair("a b", "c", system="s"))


def known(tokenizer, path, cache, **more):
    """Prepare prompts of which two in three are answered by yes."""
    told = [(f"is {i} so?", "yes" if i % 3 else f"it is {i}") for i in range(300)]
    return prepare_instructions(
        settings_of(lines(path / "data.jsonl", told), **more), tokenizer, PlainTemplate(), cache
    )


def test_what_needs_no_model_is_told_of_the_responses_that_judge(tokenizer, tmp_path):
    prepared = known(tokenizer, tmp_path, tmp_path / "cache", heldout_samples=64, answers=3)
    train = prepared.train.targets[prepared.train.targets != -100].tolist()
    counts, size = Counter(train), len(train) + tokenizer.vocab_tokens
    judged = [t for sample in prepared.heldout for t in sample.tokens[sample.learned].tolist()]
    bits = sum(math.log2(size / (counts[t] + 1)) for t in judged)
    num_bytes = sum(len(sample.response.encode()) for sample in prepared.heldout)
    assert prepared.figures["unigram_bits_per_byte"] == pytest.approx(bits / num_bytes)
    said = [sample.response for sample in prepared.heldout]
    assert 0.3 < said.count("yes") / len(said) < 0.9
    assert prepared.figures["commonest_response_ratio"] == said.count("yes") / len(said)
    assert prepared.figures["commonest_answer_ratio"] == said[:3].count("yes") / 3
    assert prepared.details["commonest_answer"] == "yes"


def test_floors_come_from_the_cache_as_they_were_made_and_answers_have_one_where_they_are_asked_for(
    tokenizer, tmp_path, monkeypatch
):
    first = known(tokenizer, tmp_path, tmp_path / "cache")
    assert "commonest_answer_ratio" not in first.figures
    monkeypatch.setattr("efficientllm.data._pack_rows.commonest_of", None)  # whoever calls it now fails
    again = known(tokenizer, tmp_path, tmp_path / "cache")
    assert again.figures == first.figures and again.details == first.details


def test_the_commonest_answer_is_that_of_training_whatever_the_held_out_ones_say(tokenizer):
    def sample(text, answer=""):
        ids = tokenizer.encode_batch([text])[0]
        return Encoded(np.array([0, *ids]), np.array([False, *(True for _ in ids)]), 1, text, answer)

    told = commonest_of([sample("so it is 7", "7"), sample("no, it is 7", "7"), sample("8", "8"), sample("8 ", "")])
    assert told.answer == "7"  # the first of equals: 7 and 8 are said twice
    asked = [sample("then it is 7", "7"), sample("9", "9")]
    figures = floor_figures(np.full((1, 4), -100, dtype=np.int32), told, asked, 2, tokenizer)
    assert figures["commonest_answer_ratio"] == 0.5 and figures["commonest_response_ratio"] == 0.0
    tokens = sum(len(s.tokens) - 1 for s in asked)
    num_bytes = sum(len(s.response) for s in asked)
    assert figures["unigram_bits_per_byte"] == pytest.approx(tokens * math.log2(tokenizer.vocab_tokens) / num_bytes)
    assert commonest_of([]).answer == "" and len(commonest_of([sample("y" * 200)]).shown()) == 81
