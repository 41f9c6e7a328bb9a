"""Readers of instruction data: the contract over the folder, each reader's own rules, and what bad input says."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from efficientllm import catalog, registry
from efficientllm.cli.main import build_app
from efficientllm.data.instructions._checks import CHECKS, check
from efficientllm.data.instructions._contract import InstructionsEntry, Sample, pair
from efficientllm.data.instructions._example import example_pairs
from efficientllm.data.instructions_reader import check_instructions, find_instructions_reader, open_instructions
from efficientllm.errors import DataError, UnknownNameError
from efficientllm.records.choice import Choice


def choice(name, **options) -> Choice:
    return Choice(name=str(name), options=options)


def write_lines(path: Path, records) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def both(opened):
    return list(opened.samples("train")), list(opened.samples("heldout"))


def everything(opened):
    train, heldout = both(opened)
    return train + heldout


def turns(opened):
    """All samples as (role, content) pairs."""
    return [[(m.role, m.content) for m in sample.messages] for sample in everything(opened)]


def prompts(samples):
    return {sample.messages[-2].content for sample in samples}


@pytest.mark.parametrize("what", CHECKS)
@pytest.mark.parametrize("name", catalog.names("instructions"))
def test_every_reader_passes_every_check(name, what, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    CHECKS[what](registry.load("instructions", name))


def faulty(train=(pair("a", "b"),), heldout=(pair("c", "d"),), **members):
    """Return a reader of these samples; a callable gives them anew at each reading."""

    class Reader:
        details: ClassVar = {"files": "3"}

        def samples(self, split):
            given = train if split == "train" else heldout
            return iter(given() if callable(given) else given)

        def fingerprint(self):
            return "same"

    for name, member in members.items():
        setattr(Reader, name, member)
    return InstructionsEntry(title="Faulty", open=Reader)


def of_a_file(read):
    """Return a reader of one file's text."""

    def example(folder):
        (folder / "a.jsonl").write_text("a\n")
        return {"path": str(folder / "a.jsonl")}

    def opened(path):
        return faulty(lambda: read(Path(path)), lambda: read(Path(path))).open()

    return InstructionsEntry(title="File", open=opened, example=example, endings=(".jsonl",))


COUNTED = itertools.count()
FAULTS = [
    (replace(faulty(), title=" "), "opens as its example says", "title is empty"),
    (replace(faulty(), open=lambda path: None), "opens as its example says", "'path' has no default"),
    (faulty(train=()), "samples with prompt and response", "train: no samples"),
    (faulty(heldout=["text"]), "samples with prompt and response", "heldout, sample 1 is str, not a Sample"),
    (faulty([pair("a", " ")]), "samples with prompt and response", "a response is empty"),
    (faulty([pair(" ", "a")]), "samples with prompt and response", "has no prompt"),
    (faulty([pair("a", "b", "c")]), "samples with prompt and response", "no part of its response"),
    (faulty([Sample(messages=())]), "samples with prompt and response", "does not end with a turn of the assistant"),
    (faulty(lambda: [pair("a", f"{next(COUNTED)}")]), "the same each time", "second reading"),
    (faulty(fingerprint=lambda self: f"{next(COUNTED)}"), "the same each time", "fingerprint"),
    (faulty(heldout=[pair(" a ", "x")]), "no prompt in both splits", "in both splits"),
    (faulty(details={"files": 3}), "details are text", "must be text"),
    (of_a_file(lambda path: [pair("a", "b")]), "unusable files are refused", "of files with nothing it gives samples"),
    (of_a_file(lambda path: [pair("a", "b")][: path.stat().st_size]), "unusable files are refused", "no text it gives"),
    (of_a_file(lambda path: []), "unusable files are refused", "not there gives no error"),
    (
        of_a_file(lambda path: path.read_text() and []),
        "unusable files are refused",
        "UnicodeDecodeError, not in a Data",
    ),
]


@pytest.mark.parametrize(("broken", "what", "says"), FAULTS)
def test_a_fault_is_found_by_its_check(broken, what, says):
    with pytest.raises(AssertionError) as found:
        CHECKS[what](broken)
    assert says in str(found.value)


def test_every_check_has_a_fault_that_it_finds():
    assert {what for _, what, _ in FAULTS} == set(CHECKS)
    assert not [error for _, error in check(faulty()) if error]


LAYOUTS = {
    "prompt/response": lambda q, a: {"prompt": q, "response": a, "id": 3},
    "prompt/completion": lambda q, a: {"prompt": q, "completion": a},
    "question/answer": lambda q, a: {"question": q, "answer": a},
    "instruction/response": lambda q, a: {"instruction": q, "response": a},
    "alpaca": lambda q, a: {"instruction": q, "input": "", "output": a},
    "messages": lambda q, a: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]},
    "sharegpt": lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_and_gives_the_same_samples(layout, tmp_path):
    opened = open_instructions(
        choice(write_lines(tmp_path / "a.jsonl", (LAYOUTS[layout](*p) for p in example_pairs())))
    )
    assert sorted(turns(opened)) == sorted([("user", q), ("assistant", a)] for q, a in example_pairs())
    assert opened.details["layout"] == layout


def test_alpaca_input_follows_its_instruction_and_a_system_message_stays_one(tmp_path):
    record = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."}
    for name, text in ("a.jsonl", json.dumps(record)), ("b.json", json.dumps([record])):
        (tmp_path / name).write_text(text)
        said = turns(open_instructions(choice(tmp_path / name)))
        assert said == [[("system", "Be brief."), ("user", "Add.\n\n1 2"), ("assistant", "3")]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_system_message_may_stand_beside_any_layout(layout, tmp_path):
    record = {**LAYOUTS[layout]("q", "a"), "system": "Be brief."}
    said = turns(open_instructions(choice(write_lines(tmp_path / "a.jsonl", [record]))))
    assert said == [[("system", "Be brief."), ("user", "q"), ("assistant", "a")]]


def test_a_json_file_beside_lines_is_no_data_and_alone_it_is(tmp_path):
    (tmp_path / "info.json").write_text(json.dumps([{"prompt": "a", "response": "b"}]))
    assert len(everything(open_instructions(choice(tmp_path)))) == 1
    (tmp_path / "info.json").write_text('{"license": "mit"}')
    write_lines(tmp_path / "a.jsonl", [{"prompt": q, "response": a} for q, a in example_pairs(30)])
    assert len(everything(open_instructions(choice(tmp_path)))) == 30


def test_a_conversation_ends_with_its_last_answer(tmp_path):
    said = [("system", "s"), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d"), ("human", "e"), ("gpt", "")]
    record = {"conversations": [{"from": role, "value": text} for role, text in said]}
    opened = open_instructions(choice(write_lines(tmp_path / "a.jsonl", [record])))
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert turns(opened) == [list(zip(roles, "sabcd", strict=True))]


def test_keys_of_ones_own_and_the_part_that_is_the_answer(tmp_path):
    lines = write_lines(tmp_path / "a.jsonl", [{"frage": "1+1", "antwort": "1 and 1 #### 1 is\n#### 2 "}])
    options = {"prompt_key": "frage", "response_key": "antwort", "answer_after": "####"}
    (sample,) = everything(open_instructions(choice(lines, **options)))
    assert sample.answer == "2" and sample.messages[-1].content.startswith("1 and 1")
    plain = open_instructions(choice(lines, prompt_key="frage", response_key="antwort"))
    assert everything(plain)[0].answer == ""


def test_splits_are_made_by_the_hash_of_the_prompt_or_named_by_files_and_share_no_prompt(tmp_path):
    one = [{"question": q, "answer": f"{a}{i}"} for i in range(2) for q, a in example_pairs(300)]
    train, heldout = both(open_instructions(choice(write_lines(tmp_path / "all.jsonl", one))))
    assert len(train) + len(heldout) == 600 and 0.05 < len(heldout) / 600 < 0.2
    assert not prompts(train) & prompts(heldout)
    write_lines(tmp_path / "named/train.jsonl", one[:50])
    write_lines(tmp_path / "named/test.jsonl", [{"question": f" {r['question']}\n", "answer": "x"} for r in one[40:60]])
    named = open_instructions(choice(tmp_path / "named"))
    train, heldout = both(named)
    assert (len(train), len(heldout)) == (40, 20)
    assert named.details["train_left_out_prompt_held_out"] == "10"


def test_what_nobody_answers_is_left_out_and_counted(tmp_path):
    lines = [
        {"prompt": q, "response": a if i % 2 else [None, "", "  "][i % 3]} for i, (q, a) in enumerate(example_pairs())
    ]
    opened = open_instructions(choice(write_lines(tmp_path / "a.jsonl", lines)))
    assert len(everything(opened)) == 60
    assert opened.details["train_left_out_no_response"] == "60"
    list(opened.samples("train"))
    assert opened.details["train_left_out_no_response"] == "60", "a second reading counts anew"


def test_a_fingerprint_changes_with_the_data_and_with_what_is_the_answer(tmp_path):
    lines = write_lines(tmp_path / "a.jsonl", [{"prompt": "a", "response": "b"}])
    first = open_instructions(choice(lines)).fingerprint()
    assert open_instructions(choice(lines, answer_after="b")).fingerprint() != first
    write_lines(lines, [{"prompt": "a", "response": "bc"}])
    assert open_instructions(choice(lines)).fingerprint() != first


def test_a_dataset_gives_what_its_lines_give_streamed_or_not(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    records = [{"question": q, "answer": a} for q, a in example_pairs(60)]
    write_lines(tmp_path / "lines/train.jsonl", records[:50])
    write_lines(tmp_path / "lines/test.jsonl", records[50:])
    expected = both(open_instructions(choice(tmp_path / "lines")))
    assert [len(split) for split in expected] == [50, 10]
    for streaming in (False, True):
        options = {"dataset": str(tmp_path / "lines"), "heldout_split": "test", "streaming": streaming}
        assert both(open_instructions(choice("datasets", **options))) == expected
    with pytest.raises(DataError, match="heldout_split 'train' is the training split"):
        open_instructions(choice("datasets", dataset="x", heldout_split="train"))


def test_docstrings_are_of_the_function_that_asks_and_in_no_prompt():
    opened = open_instructions(choice("docstrings"))
    train, heldout = list(itertools.islice(opened.samples("train"), 300)), list(opened.samples("heldout"))
    assert len(train) == 300 and len(heldout) > 100 and not prompts(train) & prompts(heldout)
    for sample in train[::3]:
        prompt, response = (message.content for message in sample.messages)
        compile(prompt, "prompt", "exec")
        assert prompt.startswith(("def ", "async def ")) and "\n" not in response
        assert len(prompt) <= 600 and f'"""{response}' not in prompt
    assert max(len(sample.messages[0].content) for sample in heldout) > 200
    short = next(open_instructions(choice("docstrings", max_characters=100)).samples("heldout"))
    assert len(short.messages[0].content) <= 100


def _solve(name, question):
    if name == "arithmetic":
        return str(sum(int(term) for term in question.removesuffix(" =").split(" + ")))
    if name == "copying":
        return question.removeprefix("Copy: ")
    told, _, asked = question.removesuffix("?").partition(". What is ")
    return dict(pair.split(" is ") for pair in told.split(", "))[asked]


@pytest.mark.parametrize(
    ("name", "harder"),
    [("arithmetic", {"digits": 5, "terms": 3}), ("copying", {"length": 20}), ("recall", {"num_pairs": 9})],
)
def test_generated_tasks_are_right_all_different_and_harder_ones_longer(name, harder):
    lengths = []
    for options in ({}, harder):
        samples = everything(open_instructions(choice(name, samples=500, **options)))
        assert len(samples) == 500 == len(prompts(samples))
        for sample in samples:
            question, answer = (message.content for message in sample.messages)
            assert _solve(name, question) == answer
        lengths.append(sum(len(sample.messages[0].content) for sample in samples))
    assert lengths[0] < lengths[1]
    other = open_instructions(choice(name, samples=500, seed=1))
    assert prompts(other.samples("train")) != prompts(open_instructions(choice(name, samples=500)).samples("train"))


def test_generated_tasks_are_the_same_on_every_machine():
    first = {n: next(open_instructions(choice(n)).samples("train")) for n in ("arithmetic", "copying", "recall")}
    assert {n: s.messages[0].content for n, s in first.items()} == {
        "arithmetic": "85 + 78 =",
        "copying": "Copy: v t k g n k u h",
        "recall": "vy is 56, tr is 46, kx is 80, gs is 37. What is tr?",
    }


def test_a_task_with_few_questions_ends():
    samples = everything(open_instructions(choice("arithmetic", digits=1)))
    assert len(samples) == 100


def test_a_plain_path_finds_the_reader_of_its_ending(tmp_path):
    write_lines(tmp_path / "lines/a.jsonl", [{"prompt": "a", "response": "b"}])
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/data-0.arrow").write_bytes(b"")
    found = {name: find_instructions_reader(choice(tmp_path / name)).name for name in ("lines", "saved")}
    assert found == {"lines": "jsonl", "saved": "datasets"}


def test_a_users_own_reader_file_is_opened_with_its_options_and_keeps_the_contract(tmp_path):
    reader = tmp_path / "my_reader.py"
    reader.write_text(
        "from efficientllm.data.instructions._contract import InstructionsEntry, pair\n"
        "class Mine:\n"
        "    details = {}\n"
        "    def __init__(self, word='a'): self.word = word\n"
        "    def samples(self, split): return iter([pair(split, self.word)])\n"
        "    def fingerprint(self): return self.word\n"
        "ENTRY = InstructionsEntry(title='Mine', open=Mine)\n",
        encoding="utf-8",
    )
    mine = Choice(name="my_reader", path=str(reader), sha256=registry.file_sha256(reader), options={"word": "b"})
    assert both(open_instructions(mine)) == ([pair("train", "b")], [pair("heldout", "b")])
    done = CliRunner().invoke(build_app(), ["check", str(reader)])
    assert done.exit_code == 0 and done.output.count("✓") == len(CHECKS), done.output
    reader.write_text(reader.read_text().replace("return self.word", "return id(self)"), encoding="utf-8")
    done = CliRunner().invoke(build_app(), ["check", str(reader)])
    assert done.exit_code == 1 and "✗ the same each time: fingerprint" in done.output


def _bad(tmp_path: Path) -> dict[str, tuple[Choice, str]]:
    """Return bad input and what its message must say."""
    files = {
        "text.jsonl": b'{"text": "a"}\n',
        "broken.jsonl": b'{"prompt": "a", "response": "b"}\n\n{"prompt": \n',
        "mixed.jsonl": b'{"prompt": "a", "response": "b"}\n{"question": "a", "answer": "b"}\n',
        "list.jsonl": b"[1]\n",
        "number.jsonl": b'{"prompt": 3, "response": "b"}\n',
        "role.jsonl": b'{"messages": [{"role": "tool", "content": "a"}]}\n',
        "turns.jsonl": b'{"messages": "a"}\n',
        "turn.jsonl": b'{"messages": ["a"]}\n',
        "unanswered.jsonl": b'{"prompt": "a", "response": ""}\n',
        "few.jsonl": b'{"prompt": "a", "response": "b"}\n',
        "none.jsonl": b"",
        "object.json": b"{}",
        "broken.json": b"[{]",
        "pictures/a.png": b"\x89PNG",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    at = {name: choice(tmp_path / name) for name in files}
    return {
        "missing": (choice(tmp_path / "nothing.jsonl"), "instructions '"),
        "missing option path": (choice("jsonl", path=str(tmp_path / "none")), "instructions jsonl: no file or folder"),
        "folder without": (
            choice("jsonl", path=str(tmp_path / "pictures")),
            "name the reader: instructions: {name: jsonl",
        ),
        "no layout": (at["text.jsonl"], "text.jsonl:1: no prompt with a response (its keys: text;"),
        "broken": (at["broken.jsonl"], "broken.jsonl:3: not a line of JSON"),
        "mixed": (at["mixed.jsonl"], "mixed.jsonl:2: no key 'prompt' of the layout prompt/response"),
        "no object": (at["list.jsonl"], "list.jsonl:1: expected an object"),
        "no text": (at["number.jsonl"], "number.jsonl:1: 'prompt' is int, not text"),
        "unknown role": (at["role.jsonl"], "role.jsonl:1, turn 1: unknown role 'tool'"),
        "no turns": (at["turns.jsonl"], "'messages' is str, not a list of turns"),
        "no turn": (at["turn.jsonl"], "turn 1 is str, not an object"),
        "no response": (at["unanswered.jsonl"], "no training sample with a response: 1 that were read have none. Give"),
        "nothing held out": (at["few.jsonl"], "have no held-out sample with a response"),
        "no line": (at["none.jsonl"], "have no training sample with a response"),
        "no list": (at["object.json"], "object.json: expected a list of samples"),
        "no json": (at["broken.json"], "broken.json: not JSON"),
        "one key": (choice("jsonl", path=str(tmp_path / "few.jsonl"), prompt_key="prompt"), "go together"),
        "no answer": (choice(tmp_path / "few.jsonl", answer_after="####"), "few.jsonl:1: the response has no answer"),
        "no dataset": (choice("datasets", dataset=str(tmp_path / "none")), "cannot be opened"),
        "wrong option": (choice("jsonl", pth="x"), "instructions jsonl has no option 'pth'. Did you mean 'path'?"),
        "missing option": (choice("jsonl"), "instructions jsonl needs the option 'path'"),
        "digits": (choice("arithmetic", digits=0), "digits 0 is not between 1 and 15"),
        "pairs": (choice("recall", num_pairs=900), "num_pairs 900"),
        "length": (choice("copying", length=1), "length 1"),
        "short": (choice("docstrings", max_characters=5), "max_characters 5"),
    }


def test_bad_input_is_one_line_that_says_what_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, (bad, says) in _bad(tmp_path).items():
        with pytest.raises(DataError) as error:
            check_instructions(bad)
        assert says in str(error.value), name
        assert "\n" not in str(error.value), name


def test_an_unknown_reader_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'docstrings'"):
        check_instructions(Choice(name="docstring"))
