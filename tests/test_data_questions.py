"""Every reader of questions keeps the contract; what is no question is answered with where it stands."""

import json

import pytest

from efficientllm import catalog, registry
from efficientllm.data.corpus import find_reader
from efficientllm.data.questions._contract import Question, first_questions, floor_of, problems
from efficientllm.data.questions_reader import asked_of, check_questions, open_questions
from efficientllm.errors import DataError
from efficientllm.records.choice import Choice

READERS = catalog.names("questions")


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_keeps_the_contract(reader, tmp_path):
    assert problems(registry.load("questions", reader), tmp_path) == []


def lines(folder, *records):
    path = folder / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return Choice(name=str(path))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"question": "a", "choices": [], "answer": 0}, r"asked.jsonl:2: choices is empty"),
        ({"question": "a", "choices": ["x", "y"], "answer": 2}, r"asked.jsonl:2: answer 2 names none of its 2 choices"),
        ({"question": "a", "choices": ["x", "y"], "answer": "C"}, r"asked.jsonl:2: answer 'C' names none"),
        ({"question": "a", "choices": ["x"], "answer": 0}, r"one choice"),
        ({"question": "a", "choices": ["x", "x"], "answer": 0}, r"two choices are the same"),
        ({"question": "a"}, r"asked.jsonl:2 lacks an answer"),
        ({"choices": ["x", "y"], "answer": 0}, r"asked.jsonl:2 lacks a question"),
        ({"prompt": "a", "answer": " "}, r"neither choices nor an answer"),
        ({"prompt": "a", "answer": "b"}, r"question 2 differs from the first in having choices"),
        ([1], r"asked.jsonl:2: expected an object"),
    ],
)
def test_what_is_no_question_is_refused_with_its_line(record, said, tmp_path):
    asked = lines(tmp_path, {"question": "ok", "choices": ["x", "y"], "answer": 0}, record)
    with pytest.raises(DataError, match=said):
        first_questions(open_questions(asked), 10, f"questions {asked.label()}")


def test_answers_may_be_places_letters_labels_or_texts(tmp_path):
    arc = {"question": "a", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
    asked = lines(
        tmp_path,
        {"question": "a", "options": ["x", "y"], "answer": "B"},
        arc,
        {"query": "a", "choices": ["x", "y"], "gold": "1"},
        {"ctx": "a", "endings": ["x", "y"], "label": "y"},
    )
    assert [q.right for q in open_questions(asked).questions()] == [1, 1, 1, 1]


def test_generated_questions_are_the_held_out_ones(tmp_path):
    asked = list(open_questions(Choice(name="arithmetic", options={"digits": 1})).questions())
    learned = registry.load("instructions", "arithmetic").open(digits=1)
    trained = {sample.messages[0].content for sample in learned.samples("train")}
    assert asked and not trained & {q.prompt for q in asked}
    assert all(eval(q.prompt.removesuffix("=")) == int(q.answer) for q in asked)
    with pytest.raises(DataError, match=r"no option 'digit'.*Did you mean 'digits'"):
        check_questions(Choice(name="arithmetic", options={"digit": 1}))


def test_the_floor_is_chance_and_the_commonest_answer():
    asked = [Question(prompt="a", choices=("x", "y", "z", "w"), right=n % 2) for n in range(8)]
    assert floor_of(asked) == (0.25, 0.5)
    assert floor_of([Question(prompt="a", answer="x"), Question(prompt="b", answer="y")]) == (0.0, 0.5)


def test_a_plain_path_is_read_as_json_lines_and_an_empty_file_is_refused(tmp_path):
    asked = lines(tmp_path)
    assert find_reader(asked, "questions").name == "jsonl"
    with pytest.raises(DataError, match="has no question"):
        check_questions(asked)


def test_examples_are_the_first_of_a_set_and_are_never_asked(tmp_path):
    asked = [{"question": f"{n % 7} + 1 =", "answer": n % 7 + 1} for n in range(20)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, asked)))
    choice = Choice(name=str(tmp_path / "sums.jsonl"), options={"shots": 3})
    found = asked_of(open_questions(choice), choice, 10)
    assert [q.prompt for q in found.examples] == ["0 + 1 =", "1 + 1 =", "2 + 1 ="]
    # of ten further ones three say the same as an example: they would be asked with their answer in sight
    assert [q.prompt for q in found.questions] == [f"{n % 7} + 1 =" for n in range(3, 13) if n % 7 > 2]
    assert asked_of(open_questions(choice), choice, 10) == found
    generated = Choice(name="arithmetic", options={"shots": 2, "digits": 2})
    first = asked_of(open_questions(generated), Choice(name="arithmetic", options={"digits": 2}), 5).questions
    assert asked_of(open_questions(generated), generated, 3).examples == first[:2]


@pytest.mark.parametrize(
    ("shots", "said"), [(20, "20 shots leave none of its 20"), (-1, "from 0, got -1"), (True, "got True"), ("2", "'2'")]
)
def test_a_number_of_examples_that_cannot_be_is_refused(shots, said, tmp_path):
    asked = [{"question": f"{n} + 1 =", "answer": n + 1} for n in range(20)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, asked)))
    with pytest.raises(DataError, match=said):
        check_questions(Choice(name=str(tmp_path / "sums.jsonl"), options={"shots": shots}), 1000)


def test_the_harness_keeps_its_own_number_of_examples(tmp_path):
    task = {"task": "mine", "folder": str(tmp_path), "shots": 4}
    assert open_questions(Choice(name="lm_eval", options=task)).shots == 4


def test_a_continuation_stands_in_held_out_text_and_the_other_ends_come_from_elsewhere(tmp_path):
    for split, documents in (("train", 1), ("heldout", 3)):
        for n in range(documents):
            lines = [f"{split} {n} line {k} says {'word ' * (k % 3)}number {n}{k}" for k in range(200)]
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / f"{n}.txt").write_text("\n".join(lines))
    choice = Choice(name="continuation", options={"corpus": str(tmp_path), "choices": 3, "prompt_characters": 80})
    asked = first_questions(open_questions(choice), 1000, "it")
    texts = [(tmp_path / "heldout" / f"{n}.txt").read_text() for n in range(3)]
    assert len(asked) == 27  # nine lines of each of three documents
    for question in asked:
        home = [text for text in texts if f"{question.prompt} {question.right_text()}\n" in text]
        assert len(home) == 1 and len(question.prompt) <= 80
        others = [end for end in question.choices if end != question.right_text()]
        assert len(others) == 2 and not any(f" {end}\n" in home[0] for end in others)
    assert len({question.right for question in asked}) == 3
    alone = Choice(name="continuation", options={"corpus": str(tmp_path / "heldout" / "0.txt")})
    with pytest.raises(DataError, match="too little held-out text"):
        check_questions(alone)
