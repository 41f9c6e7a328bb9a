"""Tables of fine-tuning: each stage against a floor of its own text, exact answers, and how tuning changes the order."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace
from rich.console import Console

from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.table import Sanity
from efficientllm.records.choice import Choice
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.settings import FinetuneSettings, PretrainSettings
from efficientllm.records.trial import Selected
from efficientllm.records.window import Window
from efficientllm.report.html import page
from efficientllm.report.markdown import markdown
from efficientllm.report.terminal import print_table
from efficientllm.stats.chance import at_least, clears

TASK = Choice(name="recall")
#: Of a fine-tuning: responses are of few kinds, so that their tokens' frequencies alone are far below the corpus' line.
FLOORS = {"unigram_bits_per_byte": 1.5, "commonest_answer_ratio": 0.125, "commonest_response_ratio": 0.0}


def judged(record, bits, figures, **quality):
    window = Window(name="quality", figures={"heldout_bits_per_byte": bits, **quality})
    return replace(record, windows=(*record.windows, window), figures=figures)


def pretrained(repeat, settings=None):
    trial = example_trial(settings or PretrainSettings(), axes={}, repeat=repeat)
    lines = {"bz2_bits_per_byte": 2.0, "unigram_bits_per_byte": 3.3}
    return judged(example_measurement(trial=trial), 2.3, lines)


def finetuned(stage, method, repeat, bits, *, right=0.5, rate="", tokens=65536, **floors):
    settings = FinetuneSettings(method=Choice(name=method), instructions=TASK, tokens=tokens)
    trial = example_trial(settings, axes={"method": method}, repeat=repeat, stage=stage, baseline=method == "full")
    if rate:
        selected = Selected(stage="tune", by="valid_loss", over="learning_rate", value=rate, tried={rate: 1.0})
        trial = replace(trial, settings=replace(settings, learning_rate=float(rate)), selected=selected)
    record = example_measurement(trial=replace(trial, id=f"{stage}-{method}-{repeat}"))
    spread = bits * (1 + 0.004 * repeat)
    return judged(
        record, spread, {**FLOORS, **floors}, exact_answers_ratio=right, asked_samples=64.0,
        exact_responses_ratio=0.25, judged_samples=64.0,
    )  # fmt: skip


COMMON = {"full": 1.2, "lora": 1.0, "ia3": 1.6}
TUNED = {"full": (0.7, "0.0008"), "lora": (0.9, "0.0002"), "ia3": (1.4, "0.013")}


def study(repeats=3):
    records = []
    for repeat in range(repeats):
        records.append(pretrained(repeat))
        records += [finetuned("common", method, repeat, bits) for method, bits in COMMON.items()]
        records += [finetuned("tuned", method, repeat, bits, rate=rate) for method, (bits, rate) in TUNED.items()]
    return records


def cells_of(table, stage, method):
    (section,) = (s for s in table.sections if s.stage == stage)
    return next(row.cells for row in section.rows if row.technique == method)


def test_each_stage_is_held_against_the_frequencies_of_its_own_text():
    table = study_table("q", study())
    ia3 = cells_of(table, "common", "ia3")["bits_per_byte"]
    assert ia3.value > 1.5 and ia3.rank is None and ia3.verdict == ""
    assert cells_of(table, "common", "lora")["bits_per_byte"].rank == 1
    assert cells_of(table, "tuned", "ia3")["bits_per_byte"].rank == 3
    assert "common (ia3)" in {caution.code: caution.text for caution in table.cautions}["at_floor"]
    assert "pretrain" not in {caution.code: caution.text for caution in table.cautions}["at_floor"]
    assert table.sanity == (
        Sanity(text="stdlib", stages=("pretrain",), bits_per_byte={"bz2": 2.0, "unigram": 3.3}),
        Sanity(text="responses of recall", stages=("common", "tuned"), bits_per_byte={"unigram": 1.5}),
    )


def test_every_report_says_which_text_a_sanity_line_is_of():
    table, console = study_table("q", study()), Console(width=200, record=True)
    print_table(table, console)
    for text in (console.export_text(), markdown(table), page(table, study())):
        assert "bits/byte of stdlib by simple models (for pretrain): bz2 2.00, unigram 3.30" in text
        assert "bits/byte of responses of recall by simple models (for common, tuned): unigram 1.50" in text
    alone = study_table("q", [record for record in study() if record.trial.stage == "pretrain"])
    assert "- bits/byte of the same text by simple models: bz2 2.00, unigram 3.30" in markdown(alone)


def test_two_corpora_have_two_lines_and_random_weights_have_none():
    other = replace(pretrained(0, PretrainSettings(corpus=Choice(name="wikitext"))), id="other")
    lines = study_table("q", [pretrained(0), other]).sanity
    assert [line.text for line in lines] == ["stdlib", "wikitext"]
    random = finetuned("common", "full", 0, 1.0, random_weights=1.0)
    assert study_table("q", [random]).sanity == ()


@pytest.mark.parametrize(
    ("rights", "words"),
    [
        ((0.5, 0.5, 0.5), ""),
        ((0.25, 0.0, 0.5), ""),  # a seed that learned nothing counts, and is not left out of the mean
        ((0.125, 0.15625, 0.1875), "10.0 of 64 are right; the commonest training answer given to every prompt has 8"),
        ((0.0, 0.0, 0.0), "0 of 64 are right; the commonest training answer"),
    ],
)
def test_answers_that_one_answer_to_every_prompt_would_explain_are_no_figure(rights, words):
    records = [finetuned("common", "full", r, 1.0, right=right) for r, right in enumerate(rights)]
    cell = cells_of(study_table("q", records, detail=True), "common", "full")["exact_answers"]
    if words:
        assert cell.value is None and cell.absent.startswith("at_floor: ") and words in cell.absent
    else:
        assert cell.values == dict(enumerate(rights))


def test_where_no_answer_is_common_a_single_right_one_clears_the_floor():
    def cell(right):
        record = finetuned("common", "full", 0, 1.0, right=right, commonest_answer_ratio=0.0)
        return cells_of(study_table("q", [record], detail=True), "common", "full")["exact_answers"]

    assert cell(1 / 64).values == {0: 1 / 64}
    assert cell(0.0).absent == "at_floor: 0 of 64 are right, which zero would explain too"


def test_a_share_clears_a_chance_as_the_exact_interval_says():
    whole = math.fsum(math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(9, 21))
    assert at_least(9, 20, 0.3) == pytest.approx(whole, rel=1e-12)
    assert at_least(600, 1000, 0.5) == pytest.approx(1.3642e-10, rel=1e-3)  # no overflow where counts are many
    assert clears(1, 4000, 0.0) and not clears(0, 4000, 0.0) and not clears(64, 64, 1.0)
    assert [clears(k, 100, 0.2) for k in (20, 28, 29)] == [False, False, True]


def test_the_order_with_one_rate_for_all_stands_beside_the_order_with_a_rate_of_ones_own():
    table = study_table("q", study())
    (changes,) = table.rank_changes
    assert (changes.stage, changes.window) == ("tuned", "against common")
    assert [row.technique for row in changes.rows] == ["full", "lora", "ia3"]
    full, lora, ia3 = (row.cells for row in changes.rows)
    assert (full["bits_per_byte_common"].rank, full["bits_per_byte_tuned"].rank) == (2, 1)
    assert (lora["bits_per_byte_common"].rank, lora["bits_per_byte_tuned"].rank) == (1, 2)
    assert ia3["bits_per_byte_common"].rank is None and ia3["bits_per_byte_tuned"].rank == 3
    assert full["tuning_gain"].value == pytest.approx(0.7 / 1.2) and full["chosen"].value == 0.0008
    line = next(choice for choice in table.choices if choice.startswith("tuned against common"))
    assert line == "tuned against common, places by bits/byte: full 2 → 1, lora 1 → 2, ia3 at its floor → 3"
    console = Console(width=100, record=True)
    print_table(table, console)
    for text in (console.export_text(), markdown(table), page(table, study())):
        assert "tuned · against common" in text and "Chosen learning rate" in text


def test_without_ranks_places_are_said_to_be_of_the_figures_alone():
    table = study_table("q", study(repeats=2))
    line = next(choice for choice in table.choices if choice.startswith("tuned against common"))
    assert "(too few repeats to tell ties): full 2 → 1, lora 1 → 2" in line


def test_stages_of_unlike_budgets_are_not_set_beside_each_other():
    records = [record for record in study() if record.trial.stage != "common"]
    records += [finetuned("common", m, r, bits, tokens=1024) for r in range(3) for m, bits in COMMON.items()]
    table = study_table("q", records)
    assert table.rank_changes == () and not any("against" in choice for choice in table.choices)
