"""What was handed in is checked again from its raw series: honest studies pass, each planted fault is named."""

from __future__ import annotations

import random
import re
from pathlib import Path

import msgspec
import pytest
from tests.forgeries import DETECTED, JUNK, UNDETECTABLE
from tests.submissions import (
    RECIPE,
    bundled,
    manifest_of,
    measured,
    records_of,
    rehashed,
    study,
    validated,
    window_of,
    with_recipe,
)
from typer.testing import CliRunner

from efficientllm.bench.judging import datasheet_by_info
from efficientllm.cli.main import build_app
from efficientllm.store.container import pack
from efficientllm.validity.submission import MEASUREMENT, of_files, read
from efficientllm.validity.validate import INTEGRITY, checks, validate

ROOT = Path(__file__).parents[1]
BUNDLES = sorted(ROOT.glob("docs/h200/**/*.tar.xz"))


def run(*words):
    return CliRunner().invoke(build_app(), [str(word) for word in words])


def faults(files, check):
    result = next(result for result in validated(files).results if result.check == check)
    return [f"{fault.where}: {fault.why}" for fault in result.refused]


def edited(edit, *, everywhere=False):
    files = study()
    records = records_of(files)
    for record in records if everywhere else records[:1]:
        edit(record)
    return rehashed(records, files)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    file = tmp_path_factory.mktemp("bundle") / "small.tar.xz"
    file.write_bytes(pack(bundled(study())))
    return file


# honest ones ---------------------------------------------------------------------------------------------------------


def test_an_honest_study_passes_every_check():
    validation = validated(study())
    assert validation.valid, validation.refused
    assert [result.check for result in validation.results] == list(checks())
    assert all(result.status in ("ok", "told") for result in validation.results)


#: Studies whose visit to a device ended before they did: their documents say so, and so must their validation.
UNFINISHED = {"contract.tar", "precisions.tar"}


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_the_bundles_of_the_documents_pass_and_are_told_to_be_older(path):
    (submission,) = read(path, datasheet_by_info)
    validation = validate(submission)
    refusing = {result.check for result in validation.results if result.status == "refused"}
    assert refusing == ({"completeness"} if path.stem in UNFINISHED else set()), validation.refused[:3]
    assert all("is missing on machine" in str(refused) for refused in validation.refused)
    told = [fault.why for result in validation.results for fault in result.faults]
    assert any("protocol version" in why and "older" in why for why in told)


def test_bundles_of_the_documents_are_found():
    assert len(BUNDLES) >= 4


def test_every_figure_that_is_recomputed_is_one_that_honest_records_have():
    """A name that no record carries would hold nothing: the sampled figures are compared by the dozen."""
    from efficientllm.validity import sampled, told

    (submission,) = read(ROOT / "docs/h200/quickstart.tar.xz", datasheet_by_info)
    compared = set()
    for record in submission.measurements():
        compared |= {name for name, _ in told.of_record(record)} & record.figures.keys()
        for window in record.windows:
            expected = (*sampled.expected(record, window), *told.of_window(window))
            compared |= {name for name, _ in expected} & window.figures.keys()
    assert len(compared) > 35, sorted(compared)


# each check, with its fault ------------------------------------------------------------------------------------------


def test_schema_names_a_file_that_is_no_record():
    files = study()
    name = next(iter(files))
    assert any(name in fault for fault in faults({**files, name: b"{"}, "schema"))
    newer = msgspec.json.encode({**msgspec.json.decode(files[name]), "schema": 99})
    assert any("newer" in fault for fault in faults({**files, name: newer}, "schema"))


def test_hashes_name_the_file_whose_bytes_are_others():
    pairs = bundled(study())
    pairs[1] = pairs[1][0], pairs[1][1] + b" "
    assert any(pairs[1][0] in fault and "the manifest says" in fault for fault in faults(pairs, "hashes"))


def test_ids_are_hashed_again_from_the_stored_fields():
    files = study()
    name, data = next(iter(files.items()))
    assert any(
        "trial's fields" in fault for fault in faults({**files, name: data.replace(b'"seed":0', b'"seed":9')}, "ids")
    )
    assert any("machine's fields" in f for f in faults({**files, name: data.replace(b"3.12.3", b"3.12.4")}, "ids"))


def test_a_machine_has_one_name_and_the_sensors_of_its_kind():
    def rename(record):
        record["environment"]["devices"][0]["name"] = "NVIDIA L4"

    def other_sensor(record):
        window_of(record, "train")["series"][1]["source"] = "linux.process_cputime_clock"

    assert any("in another record" in fault for fault in faults(edited(rename), "machine"))
    assert any("which no cuda device has" in fault for fault in faults(edited(other_sensor), "machine"))


def test_physics_is_judged_again():
    def impossible(record):
        window_of(record, "train")["work"]["model_flops"] = 1e15

    def without_cause(record):
        record["outcome"], record["reason"], record["invalid_codes"] = "invalid", "so", ["flops_above_peak"]

    assert any("flops_above_peak" in fault for fault in faults(edited(impossible, everywhere=True), "physics"))
    result = next(r for r in validated(edited(without_cause)).results if r.check == "physics")
    assert not result.refused and any("no cause" in fault.why for fault in result.faults)


def test_a_caution_that_the_series_call_for_is_asked_for():
    def throttled(record):
        for one in window_of(record, "train")["series"]:
            if one["name"] == "throttle_reasons":
                one["values"] = [4.0] * len(one["values"])

    assert any("throttled" in fault for fault in faults(edited(throttled), "physics"))


def test_protocol_asks_for_windows_series_and_warm_up():
    def no_window(record):
        record["windows"] = record["windows"][:2]

    def no_warm_up(record):
        del record["phases_s"]["warmup"]

    assert any("without its window 'quality'" in fault for fault in faults(edited(no_window), "protocol"))
    assert any("warmup" in fault for fault in faults(edited(no_warm_up), "protocol"))


def test_one_process_cannot_stand_for_two_and_two_cannot_run_at_once():
    records = records_of(study())
    records[2]["windows"], records[3]["started_at"] = records[0]["windows"], records[1]["started_at"]
    found = faults(rehashed(records, study()), "distinct")
    assert any("is the series of" in fault for fault in found) and any("on the same device" in f for f in found)


def test_completeness_names_the_trial_that_is_missing_or_too_many():
    records = records_of(study())
    assert any("pretrain mqa, repeat 1 is missing" in f for f in faults(rehashed(records[:3], study()), "completeness"))
    records[0]["trial"]["axes"]["mixer"] = "gqa"
    assert any("no recipe here asks for it" in f for f in faults(rehashed(records, study()), "completeness"))


def test_completeness_holds_settings_and_baseline_against_the_recipe():
    def slower(record):
        record["trial"]["settings"]["learning_rate"] = 0.5

    other = with_recipe(study(), RECIPE.replace("baseline: {mixer: mha}", "baseline: {mixer: mqa}"))
    assert any("settings.learning_rate is 0.5" in fault for fault in faults(edited(slower), "completeness"))
    assert any("baseline is True, the recipe's is False" in fault for fault in faults(other, "completeness"))


def test_words_that_a_recipe_was_run_with_are_kept_with_it():
    from efficientllm.recipes.load import recipe_from_text

    text = recipe_from_text(RECIPE, "small.yaml", overrides=["repeats=1", "mixer=mha"]).text
    again = recipe_from_text(text, "kept.yaml")
    assert again.text == text and again.repeats == 1
    one = [record for record in records_of(study()) if record["trial"]["repeat"] == 0][:1]
    assert validated(with_recipe(rehashed(one, {}), text)).valid
    assert not validated(with_recipe(rehashed(one, {}), RECIPE)).valid


def test_a_recipe_that_names_its_authors_file_runs_nothing_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('was run')\n")
    for text in (RECIPE.replace("mqa", "./mine.py"), RECIPE + "preset: ./mine.py\n"):
        validation = validated(with_recipe(study(), text))
        told = [fault.why for result in validation.results for fault in result.faults]
        assert any("a file of its author's" in why for why in told)


def test_statistics_name_the_figure_and_what_its_series_give():
    def lighter(record):
        window_of(record, "train")["figures"]["process_memory_peak_bytes"] = 1e9

    (fault,) = faults(edited(lighter), "statistics")
    assert "process_memory_peak_bytes is told as 1e+09, its series give 2.00" in fault and ": train" in fault


@pytest.mark.parametrize("name", DETECTED)
def test_this_forgery_is_refused(name):
    assert not validated(DETECTED[name](random.Random(name), study())).valid


@pytest.mark.parametrize("name", UNDETECTABLE)
def test_this_forgery_passes_and_is_listed(name):
    assert validated(UNDETECTABLE[name](random.Random(name), study())).valid
    assert name in (ROOT / "docs" / "validation.md").read_text()


def test_the_readme_counts_the_kinds_of_forgery():
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"{len(DETECTED)} kinds of forgery" in text and f", {len(UNDETECTABLE)} pass and are listed" in text


def test_a_record_whose_settings_no_recipe_could_give_is_no_record():
    def twice(record):
        record["trial"]["settings"] = {"workload": "inference", "prefill": [{"batch": 1}, {"batch": 1}]}

    assert any("makes no sense" in f or "make no sense" in f for f in faults(edited(twice), "schema"))


def test_a_preset_that_is_a_file_runs_only_if_it_is_the_recorded_one(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit('was run')\n")

    for sha256, why in (("0" * 64, "is not the file"), ("", "of which it tells no hash")):
        preset = {"name": "mine", "path": str(tmp_path / "mine.py"), "sha256": sha256}

        def own(record, preset=preset):
            record["trial"]["settings"] |= {"mixer": {"name": ""}, "preset": preset}

        pairs = [bundled(study())[0], *edited(own).items()]
        assert any(why in fault for fault in faults(pairs, "schema"))


@pytest.mark.parametrize("seed", range(60))
def test_junk_is_no_traceback(seed):
    for forge in JUNK.values():
        validated(forge(random.Random(seed), study()))


# the command ---------------------------------------------------------------------------------------------------------


def test_the_command_takes_a_bundle_a_study_a_results_folder_and_one_measurement(bundle, tmp_path):
    run("merge", bundle, "--results", tmp_path / "results")
    folder = tmp_path / "results" / "small"
    one = next(folder.glob("measurements/*.json"))
    for path in (bundle, folder, tmp_path / "results", one):
        done = run("validate", path)
        assert done.exit_code == 0, done.output
        assert "valid" in done.output and INTEGRITY in done.output
    assert "one measurement has no recipe" in run("validate", one).output


def test_the_command_exits_1_says_where_and_why_and_goes_on(bundle, tmp_path):
    bad, cut = tmp_path / "bad.tar.xz", tmp_path / "cut.tar.xz"
    bad.write_bytes(pack(DETECTED["edited value: energy"](random.Random(1), study())))
    cut.write_bytes(bundle.read_bytes()[:2000])
    done = run("validate", bad, cut, bundle)
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert re.search(r"refused: \S+: train: energy_j is told as", done.output)
    assert f"{bad}: REFUSED by statistics" in done.output and f"{cut}: REFUSED by schema" in done.output
    assert f"{bundle}: valid" in done.output


def test_a_program_reads_the_same(bundle):
    done = run("validate", bundle, "--json")
    told = msgspec.json.decode(done.output)
    assert told["valid"] and told["means"] == INTEGRITY
    assert [check["check"] for check in told["submissions"][0]["checks"]] == list(checks())


def test_what_is_no_submission_is_one_line(tmp_path):
    done = run("validate", tmp_path / "nowhere")
    assert done.exit_code != 0 and "is no bundle, measurement, study or results folder" in str(done.exception)


def test_a_single_measurement_is_held_against_itself():
    files = study()
    name, data = next(iter(files.items()))
    assert validate(of_files(name, MEASUREMENT, [(name, data)], datasheet_by_info)).valid
    assert not validate(of_files(name, MEASUREMENT, [("measurements/x.json", data)], datasheet_by_info)).valid


def test_the_small_study_is_what_the_real_judge_calls_ok():
    from efficientllm.recipes.expand import expand
    from efficientllm.recipes.load import recipe_from_text

    trials = expand(recipe_from_text(RECIPE, "small.yaml"), "cuda").trials
    assert [measured(trial, n).outcome for n, trial in enumerate(trials)] == ["ok"] * 4
    assert manifest_of(study()) == bundled(study())[0][1]


def test_figures_of_two_devices_follow_from_both():
    """The real meters' sums over two devices, each with readings outside the window that are not stored."""
    import msgspec.structs
    from tests.submissions import CARD, sampled_by

    from efficientllm.meters.together import figures_of_all
    from efficientllm.records.window import Window
    from efficientllm.validity import joules, sampled

    records = of_files("s", MEASUREMENT, list(study().items()))
    both = tuple(msgspec.structs.replace(CARD, uuid=f"GPU-{n}") for n in (0, 1))
    one = records.measurements()[0]
    record = msgspec.structs.replace(one, environment=msgspec.structs.replace(one.environment, devices=both))
    for seed in range(20):
        seen = [sampled_by(random.Random(f"{seed} {n}"), 20.0, device=n) for n in (0, 1)]
        idle = [{"idle_power_w": 40.0}] * 2
        series, figures, absent = figures_of_all(seen, 7.3 + seed / 100, 15.1, idle)
        window = Window(name="train", begin_s=7.3 + seed / 100, end_s=15.1, series=tuple(series), figures=figures)
        held = dict(sampled.expected(record, window))
        wrong = [name for name, bounds in held.items() if name in figures and not bounds.holds(figures[name])]
        assert not wrong and not list(joules.wrong_energy(record, window)), (wrong, absent)
        for name in ("energy_j", "process_memory_peak_bytes", "power_instant_peak_w", "device_1_energy_j"):
            edited = msgspec.structs.replace(window, figures={**figures, name: figures[name] * 1.3})
            bad = [
                n
                for n, bounds in sampled.expected(record, edited)
                if n == name and not bounds.holds(1.3 * figures[name])
            ]
            assert bad or list(joules.wrong_energy(record, edited)), name
