"""Every reader of questions keeps the contract; what is no question is answered with where it stands."""

import json

import pytest

from efficientllm import catalog, registry
from efficientllm.data.corpus import find_reader
from efficientllm.data.questions._contract import Question, first_questions, floor_of, problems
from efficientllm.data.questions_reader import check_questions, open_questions
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
