"""Texts and questions that judge are looked at before anything runs: one line with file and key."""

import pytest

from efficientllm.bench.inputs import check_inputs
from efficientllm.errors import RecipeError
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import load_recipe, recipe_from_text


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "precision.domains={law: ./nowhere.txt}",
            "stages.precision.domains.law: corpus './nowhere.txt': no such file",
        ),
        ("precision.domains={law: ./empty}", "stages.precision.domains.law: corpus text: folder 'empty' holds no"),
        ("precision.domains={law: ./picture.txt}", "stages.precision.domains.law: picture.txt is not text"),
        (
            "precision.domains={law: {name: stdlib, part: 1}}",
            "stages.precision.domains.law: corpus stdlib has no option",
        ),
        ("precision.questions=[recall, ./no.jsonl]", "stages.precision.questions[1]: questions './no.jsonl': no such"),
        ("precision.questions=[./none.jsonl]", "stages.precision.questions[0]: questions ./none.jsonl has no question"),
        ("precision.questions=[./fields.jsonl]", "stages.precision.questions[0]: fields.jsonl:2 lacks an answer"),
        ("precision.questions=[{name: recall, shots: many}]", "stages.precision.questions[0]: questions recall: shots"),
        ("pretrain.outside=./nowhere.txt", "stages.pretrain.outside: corpus './nowhere.txt': no such file"),
    ],
)
def test_what_cannot_be_judged_on_is_refused_with_file_and_key(word, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\x00\xff" * 64)
    (tmp_path / "fields.jsonl").write_text('{"question": "1 + 1 =", "answer": 2}\n{"question": "2 + 2 ="}\n')
    recipe = load_recipe("quickstart", [word, "repeats=1"])
    with pytest.raises(RecipeError) as caught:
        check_inputs(expand(recipe, "cpu").trials, recipe.file)
    assert str(caught.value).startswith(f"quickstart.yaml: {says}")
    assert "\n" not in str(caught.value)


def test_what_the_recipes_of_the_package_judge_on_is_there():
    for name in ("inference/domains", "architecture/quality"):
        recipe = load_recipe(name)
        check_inputs(expand(recipe, "cpu").trials, recipe.file)


def test_what_is_asked_is_read_as_far_as_it_is_asked_and_once(tmp_path):
    path = tmp_path / "late.jsonl"
    path.write_text('{"question": "1 + 1 =", "answer": 2}\n' * 5 + "[]\n")
    text = f"workload: inference\nquestions: [{path}]\nasked: {{}}\naxes:\n  precision: [fp32, int8]\n"
    few, all_ = (expand(recipe_from_text(text.format(most), "a.yaml"), "cpu").trials for most in (5, 6))
    check_inputs(few, "a.yaml")
    with pytest.raises(RecipeError, match=r"a.yaml: stages.inference.questions.0.: .*:6: expected an object"):
        check_inputs(all_, "a.yaml")
