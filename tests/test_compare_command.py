"""`compare` from the command line: sources, selectors, exit codes, and what is printed."""

from __future__ import annotations

import json
import shutil

import pytest
from rich.console import Console
from tests.two_sides import STUDY, compare, of_commit, on_machine, planted

from efficientllm.report.comparison_text import comparison_markdown, print_comparison
from efficientllm.store.bundle import write_bundle
from efficientllm.store.folder import Study

OLD, NEW = of_commit(STUDY, "a" * 40), of_commit(planted(stage="pretrain", technique="mqa", seconds=1.1), "b" * 40)
FLIPPED = on_machine(planted(stage="inference", technique="gqa", window="decode", seconds=1.6), "other", peak=10)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder whose study holds two commits, one of which also lies in a bundle."""
    folder = tmp_path_factory.mktemp("compare")
    for name, records in (("both", [*OLD, *NEW]), ("new", NEW)):
        study = Study(folder / "results", name)
        for record in records:
            study.write(record)
    write_bundle(study, folder / "new.tar.xz")
    return folder / "results"


@pytest.fixture
def run(results, command_line):
    return command_line(results, columns=100)


def test_two_commits_of_a_study_exit_1_over_the_limit_and_0_within_it(run):
    code, out, _ = run("compare", "both@aaaa", "both@commit:bbbb", "--fail-over", "5%")
    assert code == 1 and "2 regressions (limit 5.00 %): pretrain, mqa: Step" in out.replace("\n  ", " ")
    assert run("compare", "both@aaaa", "both@bbbb", "--fail-over", "20%")[0] == 0
    assert run("compare", "both@aaaa", "both@bbbb")[0] == 0


def test_a_bundle_a_study_folder_a_results_folder_and_a_file_are_sources(run, results, tmp_path):
    table = json.loads(run("compare", "both@aaaa", results.parent / "new.tar.xz", "--json")[1])
    assert table["b"]["measurements"] == len(NEW) and len(table["differences"]) > 30
    assert json.loads(run("compare", "both@aaaa", results / "new", "--json")[1])["differences"] == table["differences"]
    shutil.copytree(results / "new", tmp_path / "new")
    assert json.loads(run("compare", "both@aaaa", tmp_path, "--json")[1])["differences"] == table["differences"]
    pretrained = next(r for r in NEW if r.trial.stage == "pretrain" and r.trial.technique() == "mqa")
    code, out, _ = run("compare", "both@aaaa", results / "new/measurements" / f"{pretrained.id}.json", "--json")
    assert code == 0 and {one["n_b"] for one in json.loads(out)["differences"]} == {1}


def test_only_what_is_significant_is_printed_and_the_rest_on_request(run):
    _, first, _ = run("compare", "both@aaaa", "both@bbbb")
    _, whole, _ = run("compare", "both@aaaa", "both@bbbb", "--all")
    assert "mqa  Step" in first and "\nmha  Step" not in first and "--all lists" in first
    assert "\nmha  Step" in whole and len(whole.splitlines()) > 2 * len(first.splitlines())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", "bth", "new"), "Did you mean 'both'?"),
        (("compare", "both@cccc", "new"), "There is: aaaaaaaaaaaa, bbbbbbbbbbbb."),
        (("compare", "both@color:red", "new"), "a selector is a git commit or begins with machine:"),
        (("compare", "both@aaaa", "new", "--fail-over", "much"), "for example 5%"),
        (("compare", "both@aaaa", "new", "--fail-over", "0.05"), "for example 5%"),
        (("compare", "both@aaaa", "new", "--format", "html"), "text, markdown"),
        (("compare", "new", "new"), "are the same measurements"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(run, words, said):
    code, out, err = run(*words)
    assert code == 2 and not out and len(err.splitlines()) == 1 and said in err


def text_of(table, **more):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_comparison(table, console, **more)
    return console.export_text()


def test_no_line_is_wider_than_the_terminal_and_a_flip_stands_first():
    table = compare(on_machine(STUDY, "one"), FLIPPED)
    for everything in (False, True):
        assert max(map(len, text_of(table, everything=everything).splitlines())) <= 100
    lines = text_of(table).splitlines()
    after = lines[lines.index("What carries over from A to B") :]
    block = after[next(i for i, line in enumerate(after) if line.startswith("inference decode")) :]
    assert block[2].startswith("gqa / m") and block[2].endswith("FLIPS")


def test_markdown_shows_the_verdict_and_folds_how():
    text = comparison_markdown(compare(OLD, NEW, fail_over=0.05))
    lines = text.splitlines()
    assert lines[0] == "## a → b" and lines[2].startswith("- 2 regressions (limit 5.00 %)")
    tables = [line for line in lines if line.startswith("|")]
    assert any(line.startswith("| mqa | Step |") and "over the limit" in line for line in tables)
    assert {line.count("|") for line in tables} == {8, 6}  # a figure's seven cells, a conclusion's five
    assert text.index("<details>") > text.index("| mqa | Step |") and text.rstrip().endswith("</details>")
