"""Quality in a report: text by text and task by task, paired with the baseline item by item."""

import random

import pytest
from msgspec.structs import replace

from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.values import all_metrics
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import recipe_from_text
from efficientllm.records.choice import Choice
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.series import Series
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Window
from efficientllm.report.html import page
from efficientllm.report.markdown import markdown
from efficientllm.stats.items import paired_items

ROWS = 64


def window_of(name, nats, **figures):
    series = Series(name="row_nats", unit="nats", at_s=tuple(range(len(nats))), values=tuple(nats))
    mean = sum(nats) / len(nats) / 64
    told = {"heldout_bits_per_byte": mean / 2, "heldout_nats_per_token": mean, "heldout_tokens": 64.0 * len(nats)}
    return Window(name=name, series=(series,), figures={**told, **figures})


def task_of(right, picks):
    at = tuple(range(len(right)))
    series = (
        Series(name="item_right", unit="ratio", at_s=at, values=tuple(map(float, right))),
        Series(name="item_pick", unit="index", at_s=at, values=tuple(map(float, picks))),
    )
    figures = {"accuracy_ratio": sum(right) / len(right), "asked_items": float(len(right)), "chance_ratio": 0.25}
    return Window(name="task_quiz", series=series, figures=figures)


def record(precision, repeat, windows, **figures):
    settings = InferenceSettings(
        precision=Choice(name=precision), against=Choice(name="bf16"), domains={"code": Choice(name="stdlib")},
        questions=(Choice(name="quiz.jsonl"),), prefill=(), decode=(),
    )  # fmt: skip
    trial = example_trial(
        settings, axes={"precision": precision}, repeat=repeat, baseline=precision == "bf16", stage="inference"
    )
    lines = {"unigram_bits_per_byte": 9.0, "bz2_bits_per_byte": 2.0, "unigram_code_bits_per_byte": 9.0}
    made = example_measurement(trial=trial)
    return replace(made, windows=tuple(windows), figures={**lines, "bz2_code_bits_per_byte": 1.5, **figures})


def study(loss=0.004, noise=0.0005, **figures):
    """Rows differ widely from each other and hardly from the baseline's: 0.4 % worse on the corpus, none on code."""
    found = []
    for repeat in range(3):
        rng = random.Random(repeat)
        rows = [rng.uniform(100, 300) for _ in range(ROWS)]
        right = [n % 4 != 3 for n in range(80)]
        for precision in ("bf16", "int4"):
            worse = 0.0 if precision == "bf16" else loss
            moved = [x * (1 + worse + rng.gauss(0, noise)) for x in rows]
            flipped = [r if n >= 8 or precision == "bf16" else not r for n, r in enumerate(right)]
            windows = [
                window_of("quality", moved, kl_nats_per_token=worse, top1_agreement_ratio=1 - worse,
                          smallest_detectable_rise_nats=0.3),
                window_of("quality_code", rows),
                task_of(flipped, [int(not x) for x in flipped]),
            ]  # fmt: skip
            found.append(record(precision, repeat, windows, **figures))
    return found


def sections(records):
    table = study_table("s", records)
    return {section.window.partition(" ")[2].replace("_", " "): section for section in table.quality}, table


def cell(section, technique, column):
    return next(row for row in section.rows if row.technique == technique).cells[column]


def test_a_small_loss_is_seen_by_pairing_rows_that_differ_widely():
    found, _ = sections(study(loss=0.02))
    bits = found["Bits/byte"]
    assert [column.title for column in bits.columns] == ["stdlib", "code"]
    worse, same = cell(bits, "int4", "bits_per_byte.quality"), cell(bits, "int4", "bits_per_byte.code")
    assert worse.verdict == "worse" and worse.ratio_low < 1.02 < worse.ratio_high < 1.03
    assert same.verdict == "equivalent" and same.ratio == 1.0
    assert "stdlib" in bits.conditions["smallest drop that the items tell"]


def test_rows_out_of_order_are_not_paired_as_if_they_were_the_same():
    """The planted fault: the same losses in another order tell nothing of a small difference."""
    shuffled = study(loss=0.02)
    for n, one in enumerate(shuffled):
        if one.trial.axes["precision"] == "int4":
            quality = one.windows[0]
            values = random.Random(n).sample(quality.series[0].values, ROWS)
            series = (replace(quality.series[0], values=tuple(values)),)
            shuffled[n] = replace(one, windows=(replace(quality, series=series), *one.windows[1:]))
    worse = cell(sections(shuffled)[0]["Bits/byte"], "int4", "bits_per_byte.quality")
    assert worse.verdict == "unresolved" and worse.ratio_low < 1.0 < worse.ratio_high


def test_tasks_have_accuracy_and_flips_and_chance_is_a_floor():
    found, _ = sections(study())
    assert cell(found["Accuracy"], "bf16", "accuracy.quiz").value == 0.75
    assert cell(found["Answer flips"], "int4", "answer_flips.quiz").value == pytest.approx(0.1)
    assert cell(found["Answer flips"], "bf16", "answer_flips.quiz").value == 0.0
    guess = [
        replace(one, windows=(*one.windows[:2], task_of([n % 4 == 0 for n in range(80)], [0] * 80))) for one in study()
    ]
    why = cell(sections(guess)[0]["Accuracy"], "int4", "accuracy.quiz")
    assert why.value is None and why.absent == "at_floor: 20.0 of 80 are right; chance has 20.0"


def test_a_text_below_token_frequencies_has_no_verdict():
    bits = sections(study(unigram_bits_per_byte=0.5))[0]["Bits/byte"]
    assert cell(bits, "int4", "bits_per_byte.quality").verdict == ""
    assert cell(bits, "int4", "bits_per_byte.code").verdict == "equivalent"


def test_reports_show_domains_side_by_side_each_with_its_simple_models():
    _, table = sections(study())
    texts = {sanity.text: sanity.bits_per_byte for sanity in table.sanity}
    assert texts["code (stdlib)"] == {"bz2": 1.5, "unigram": 9.0}
    assert texts["stdlib"] == {"bz2": 2.0, "unigram": 9.0}
    said = markdown(table)
    for heading in ("Bits/byte", "KL divergence", "Top-1 agreement", "Accuracy", "Answer flips"):
        assert f"<summary>inference · {heading}</summary>" in said
    assert "inference · KL divergence" in page(table, study())
    assert all_metrics(study()[1], study()[1].windows[0])["kl_divergence"] == 0.004


def test_records_of_one_text_alone_have_no_further_section():
    alone = [
        replace(one, windows=(replace(one.windows[0], figures={"heldout_bits_per_byte": 2.0}),)) for one in study()
    ]
    assert study_table("s", alone).quality == ()


def test_the_less_sure_of_items_and_rounds_is_told():
    base = {r: [100.0 + n for n in range(50)] for r in range(3)}
    sure = {r: [x + 1.0 + 0.01 * (n % 2) for n, x in enumerate(base[r])] for r in base}
    assert paired_items(sure, base, "low").p_value < 1e-6
    apart = {r: [x + r - 0.5 for x in base[r]] for r in base}
    told = paired_items(apart, base, "low")
    assert told.n == 3 and told.p_value > 0.2
    with pytest.raises(ValueError, match="other items"):
        paired_items({0: [1.0, 2.0]}, {0: [1.0]}, "low")
    assert paired_items(base, base, "low").p_value == 1.0


RECIPE = """
workload: inference
baseline: {precision: bf16}
axes:
  precision: [bf16, {name: int4}]
domains: {code: stdlib, prose: pydoc}
questions: [arithmetic, {name: recall, num_pairs: 2}]
"""


def test_a_recipe_names_domains_and_questions_and_its_baseline_is_what_all_are_compared_with():
    trials = expand(recipe_from_text(RECIPE, "a.yaml"), "cpu").trials
    assert {trial.settings.against.name for trial in trials} == {"bf16"}
    assert trials[0].settings.domains["prose"] == Choice(name="pydoc")
    assert trials[0].settings.questions[1] == Choice(name="recall", options={"num_pairs": 2})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            "domains: {code: stdlb}",
            "unknown corpus 'stdlb' in a.yaml: stages.inference.domains.code. Did you mean 'stdlib'",
        ),
        ("domains: {My Text: stdlib}", "'My Text' cannot name a domain"),
        ("questions: [arithmetics]", r"unknown questions 'arithmetics' in a.yaml: stages.inference.questions\[0\]"),
        ("questions: arithmetic", "questions: expected `array`"),
        ("against: bf17", "unknown precision 'bf17'"),
    ],
)
def test_a_slip_in_a_recipe_is_answered_with_its_place(wrong, said):
    with pytest.raises(Exception, match=said):
        expand(recipe_from_text(f"workload: inference\n{wrong}\n", "a.yaml"), "cpu")
