"""`bundle --anonymous`: nothing tells whose it is, and it is still the same study."""

from __future__ import annotations

import lzma
import re

import msgspec
import pytest
from tests.submissions import (
    HOST,
    RECIPE,
    USER,
    UUID,
    bundled,
    honest_files,
    records_of,
    rehashed,
    study,
    validated,
    with_recipe,
)
from typer.testing import CliRunner

from efficientllm.analysis.leaderboard import study_table
from efficientllm.bench.judging import datasheet_by_info
from efficientllm.cli.main import build_app
from efficientllm.recipes.override import with_words, words_of
from efficientllm.records.trial import trial_digest
from efficientllm.store.anonymous import HIDDEN, anonymised
from efficientllm.store.bundle import merge_bundle, read_manifest, verify_bundle, write_bundle
from efficientllm.store.disguise import Disguise
from efficientllm.store.folder import Study
from efficientllm.validity.submission import BUNDLE, of_files, read
from efficientllm.validity.validate import validate

#: A trial that says all that a run of somebody's own may say.
REASON = f"""OSError: /home/{USER}/models/secret-llama/config.json (loader.py:12), pid 4711 on {HOST}
  File "/home/{USER}/.venv/lib/python3.12/site-packages/torch/nn/functional.py", line 3
at http://10.1.2.3:8000/v1 and https://{HOST}.lab.example/v1, device {UUID}, MIG-{UUID[4:]}"""


@pytest.fixture(scope="module")
def told():
    """The small study with one failed trial that names everything, and a recipe with its author's comments."""
    records = records_of(study())
    records[0] |= {"outcome": "crashed", "reason": REASON, "windows": [], "figures": {}}
    text = RECIPE.replace("# Two mixers on one card.", f"# {USER}'s study on {HOST}, see /home/{USER}/notes")
    return with_recipe(rehashed(records, {}), text)


@pytest.fixture(scope="module")
def there(told, tmp_path_factory):
    place = Study(tmp_path_factory.mktemp("anonymous"), "small")
    place.check_writable()
    for name, data in told.items():
        if name.startswith("measurements/"):
            place.measurement_file(name[13:-5]).write_bytes(data)
        else:
            place.keep_recipe(data)
    return place


@pytest.fixture(scope="module")
def bundle(there):
    return write_bundle(there, there.results / "anonymous.tar.xz", anonymous={HOST, USER}).file


def test_the_whole_bundle_holds_no_host_user_home_path_uuid_address_or_process(told, bundle):
    words = [HOST, USER, UUID, UUID[4:], "/home/", "secret-llama", "pid 4711", "10.1.2.3", "lab.example"]
    before = b"".join(told.values()).decode()
    assert all(word in before for word in words)
    after = lzma.decompress(bundle.read_bytes()).decode()
    assert [word for word in words if word in after] == []
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", after)
    for record in records_of(told):  # nor an id that a public record of the same machine would have too
        assert record["environment"]["machine_id"] not in after and record["id"] not in after
        assert record["ceilings"]["calibration"] not in after


def test_what_is_published_stays_readable(bundle):
    after = lzma.decompress(bundle.read_bytes()).decode()
    assert "/functional.py" in after and "NVIDIA H200" in after and "nats/token" in after and "2.11.0" in after


def test_it_validates_and_says_that_it_was_made_anonymous(bundle):
    assert read_manifest(bundle).anonymised == HIDDEN and verify_bundle(bundle)
    (submission,) = read(bundle, datasheet_by_info)
    validation = validate(submission)
    assert validation.valid, validation.refused
    assert all("pseudonyms" in record.absent["identity"] for record in submission.measurements())


def test_it_gives_the_same_table(told, bundle):
    def table(measurements):
        text = msgspec.json.encode(study_table("small", measurements)).decode()
        for record in measurements:
            text = text.replace(record.id, "ID").replace(record.trial.id, "TRIAL")
            text = text.replace(record.environment.machine_id, "MACHINE").replace(record.environment.host, "HOST")
            text = text.replace(record.environment.devices[0].uuid, "UUID")
        return re.sub(r"OSError: (?:[^\"\\]|\\.)*", "REASON", text)

    first = sorted(of_files("s", BUNDLE, bundled(told)).measurements(), key=lambda m: m.started_at)
    (submission,) = read(bundle)
    after = sorted(submission.measurements(), key=lambda m: m.started_at)
    assert table(after) == table(first) and "pretrain" in table(first)


def test_the_same_study_gives_the_same_bytes_and_another_one_other_pseudonyms(told, there, bundle):
    again = write_bundle(there, there.results / "again.tar.xz", anonymous={HOST, USER}).file
    assert again.read_bytes() == bundle.read_bytes()
    other = {name: data.replace(b"21:10:05", b"21:10:06") for name, data in told.items()}
    machines = [
        {record["environment"]["machine_id"] for record in records_of(anonymised(files, {HOST}))}
        for files in (told, other)
    ]
    assert len(machines[0]) == len(machines[1]) == 1 and machines[0] != machines[1]


def test_parents_paths_and_commands_are_followed_into_the_ids(told):
    records = records_of(study())
    first, second = records[0]["trial"], records[1]["trial"]
    first["settings"]["corpus"] = {"name": f"/home/{USER}/texts", "options": {}, "path": "", "sha256": ""}
    second["parent"] = trial_digest(first)
    hidden = records_of(anonymised(rehashed(records, study()), ()))
    (parent,) = (r["trial"] for r in hidden if r["trial"]["settings"]["corpus"]["name"].startswith("./anonymous"))
    assert parent["id"] == trial_digest(parent) != second["parent"]
    assert [r["trial"]["parent"] for r in hidden if r["trial"]["parent"]] == [parent["id"]]


def test_a_recipe_whose_text_is_at_a_path_still_fits_its_records():
    recipe = f"{RECIPE}corpus: /home/{USER}/novels\n"
    files = honest_files(with_words(recipe, ["title=mine", "seed=0"]))
    assert validated(files).valid
    hidden = anonymised(files, {HOST, USER})
    assert validated(hidden).valid and not any(b"novels" in data or USER.encode() in data for data in hidden.values())
    assert all(words_of(data.decode()) for name, data in hidden.items() if name.startswith("recipes/"))


def test_an_anonymous_bundle_merges_beside_the_original(bundle, tmp_path):
    merge_bundle(bundle, tmp_path)
    report = merge_bundle(bundle, tmp_path)
    assert len(report.already_there) == 4 and not report.refused


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("5 nats/token at 3 bytes/s, and/or 2/3", "5 nats/token at 3 bytes/s, and/or 2/3"),
        ("Qwen/Qwen2.5-0.5B of architecture/quality", "Qwen/Qwen2.5-0.5B of architecture/quality"),
        ("torch 2.11.0, driver 580.159.04", "torch 2.11.0, driver 580.159.04"),
        ("http://localhost:8000/v1 and 127.0.0.1", "http://localhost:8000/v1 and 127.0.0.1"),
        ("the process ended inside this window", "the process ended inside this window"),
    ],
)
def test_what_tells_nobody_stays(text, kept):
    assert Disguise(b"k", ["ada"]).text(text) == kept


@pytest.mark.parametrize(
    "text",
    ["~/models/x", "../x/ada.bin", "C:\\Users\\ada\\x", "/mnt/ada/x", "./ada/my_mixer.py", "ada@host", "(/srv/ada/x)"],
)
def test_paths_of_every_form_are_hidden(text):
    assert "ada" not in Disguise(b"k", ["ada"]).text(text)


def test_a_pseudonym_is_not_hidden_again():
    disguise = Disguise(b"k", ["ada"])
    once = disguise.text("/home/ada/x.py on ada")
    assert disguise.text(once) == once


def test_the_command_hides_this_machine_and_this_user(there, tmp_path):
    file = tmp_path / "b.tar.xz"
    words = ["bundle", "small", "--results", str(there.results), "--anonymous", "-o", str(file)]
    done = CliRunner().invoke(build_app(), words)
    assert done.exit_code == 0, done.output
    text = lzma.decompress(file.read_bytes()).decode()
    assert HOST not in text and USER not in text and UUID not in text
