"""A folder of bundles as a site: one leaderboard, the refused with their reason, the data described for machines."""

from __future__ import annotations

import csv
import hashlib
import html.parser
import io
import re

import msgspec
import pytest
from tests.forgeries import DETECTED, UNDETECTABLE
from tests.submissions import bundled, manifest_of, records_of, rehashed, study, validated
from typer.testing import CliRunner

from efficientllm.analysis.across import boards
from efficientllm.analysis.long_table import COLUMNS
from efficientllm.cli.main import build_app
from efficientllm.store.anonymous import HIDDEN, anonymised
from efficientllm.store.container import pack
from efficientllm.validity.validate import INTEGRITY


def elsewhere():
    """The same study on another card."""
    records = records_of(study())
    for record in records:
        record["environment"]["devices"][0] |= {"name": "NVIDIA GH200 144G HBM3e", "uuid": "GPU-1"}
    return rehashed(records, study())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import random

    place = tmp_path_factory.mktemp("bundles") / "Leader Board"
    place.mkdir()
    forged = DETECTED["edited value: energy"](random.Random(1), study())
    hidden = [("manifest.json", manifest_of(anonymised(study()), HIDDEN)), *anonymised(study()).items()]
    for name, pairs in {
        "ada.tar.xz": bundled(study()),
        "bob & co.tar.xz": bundled(elsewhere()),
        "carl.efficientllm.tar.xz": hidden,
        "mallory.tar.xz": forged,
    }.items():
        (place / name).write_bytes(pack(pairs))
    (place / "broken.tar.xz").write_bytes(b"no bundle")
    (place / "notes.txt").write_text("not a bundle")
    return place


@pytest.fixture(scope="module")
def site(folder):
    done = run(
        "report", "--site", folder, "-o", folder.parent / "site", "--license", "CC-BY-4.0", "--creator", "Ada L."
    )
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(folder.parent / "site" / "index.html")
    return folder.parent / "site"


def run(*words):
    return CliRunner().invoke(build_app(), [str(word) for word in words])


class Links(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("href", "src") and value]


def test_the_index_has_one_leaderboard_of_all_that_are_valid(site):
    text = (site / "index.html").read_text()
    assert "3 submissions" in text and "2 refused" in text
    assert "NVIDIA H200" in text and "NVIDIA GH200 144G HBM3e" in text
    assert text.count('class="tag">3 submissions') >= 1
    assert '<span class="tag">anonymous</span>' in text and "<title>Leader Board – efficientllm" in text


def test_the_refused_are_listed_with_the_reason_and_counted_nowhere(site):
    text = (site / "index.html").read_text()
    board, refused = text.split('<h2 id="refused">')
    assert "mallory" not in board and "energy_j is told as" in refused and "broken.tar.xz" in refused
    assert not (site / "submissions" / "mallory.html").exists() and not (site / "bundles" / "mallory.tar.xz").exists()
    assert "mallory" not in (site / "metrics.csv").read_text()


def test_who_hands_in_the_series_of_another_is_told_of(site):
    text = (site / "index.html").read_text()
    assert (
        "holds the same raw series as bob &amp; co, carl" in text
    )  # the folder's three are one study, told three times


def test_no_path_of_the_machine_that_made_it_stands_in_the_site(site, folder):
    for file in [*site.glob("*.*"), *site.glob("submissions/*")]:
        assert str(folder.parent) not in file.read_text(), file


def test_it_says_that_this_is_integrity_and_not_authenticity(site):
    assert INTEGRITY in (site / "index.html").read_text()


def test_every_link_leads_to_a_file_of_the_site_and_nothing_is_fetched(site):
    page = Links((site / "index.html").read_text())
    for link in page.links:
        assert not re.match(r"[a-z]+:", link), link
        assert link.startswith("#") or (site / link).is_file(), link
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert "url(" not in (site / "index.html").read_text()


def test_each_bundle_has_a_page_and_travels_with_the_site(site, folder):
    for name, stem in {"ada.tar.xz": "ada", "bob & co.tar.xz": "bob-co", "carl.efficientllm.tar.xz": "carl"}.items():
        assert (site / "bundles" / f"{stem}.tar.xz").read_bytes() == (folder / name).read_bytes()
        assert "pretrain" in (site / "submissions" / f"{stem}.html").read_text()


def test_two_bundles_that_make_one_link_are_refused(folder, tmp_path):
    for name in ("a b.tar.xz", "a-b.tar.xz"):
        (tmp_path / name).write_bytes((folder / "ada.tar.xz").read_bytes())
    assert "makes the same link" in str(run("report", "--site", tmp_path, "-o", tmp_path / "site").exception)


def test_a_bundle_that_is_gone_leaves_nothing_in_the_site(folder, tmp_path):
    place, out = tmp_path / "in", tmp_path / "out"
    place.mkdir()
    for name in ("ada.tar.xz", "carl.efficientllm.tar.xz"):
        (place / name).write_bytes((folder / name).read_bytes())
    assert run("report", "--site", place, "-o", out, "--license", "CC0-1.0", "--creator", "org:Lab").exit_code == 0
    (out / "bundles" / "notes.txt").write_text("mine")
    (place / "ada.tar.xz").unlink()
    assert run("report", "--site", place, "-o", out).exit_code == 0
    left = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert left == ["bundles/carl.tar.xz", "bundles/notes.txt", "index.html", "metrics.csv", "submissions/carl.html"]


def test_metrics_are_one_line_a_figure(site):
    rows = list(csv.DictReader(io.StringIO((site / "metrics.csv").read_text())))
    assert list(rows[0]) == list(COLUMNS)
    assert {row["submission"] for row in rows} == {"ada", "bob & co", "carl"}
    steps = [row for row in rows if row["metric"] == "latency_median" and row["submission"] == "ada"]
    assert len(steps) == 4 and all(0.19 < float(row["value"]) < 0.26 and row["unit"] == "s" for row in steps)


def test_the_data_are_described_for_machines(site):
    told = msgspec.json.decode((site / "croissant.json").read_bytes())
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.0" and told["@type"] == "sc:Dataset"
    assert told["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    assert told["creator"] == {"@type": "sc:Person", "name": "Ada L."}
    files = {one["@id"]: one for one in told["distribution"]}
    assert set(files) == {"metrics.csv", *(f"bundles/{path.name}" for path in (site / "bundles").iterdir())}
    for path, one in files.items():
        data = (site / path).read_bytes()
        assert one["sha256"] == hashlib.sha256(data).hexdigest() and one["contentSize"] == f"{len(data)} B"
    (records,) = told["recordSet"]
    assert [one["source"]["extract"]["column"] for one in records["field"]] == list(COLUMNS)
    assert {one["source"]["fileObject"]["@id"] for one in records["field"]} == {"metrics.csv"}


def test_without_a_licence_nothing_is_described_and_the_page_says_so(folder, tmp_path):
    assert run("report", "--site", folder, "-o", tmp_path).exit_code == 0
    assert not (tmp_path / "croissant.json").exists()
    assert "No licence was stated" in (tmp_path / "index.html").read_text()


def test_rows_stand_together_where_all_but_the_machine_is_the_same():
    import random

    shorter = validated(UNDETECTABLE["a technique dropped from recipe and records"](random.Random(0), study()))
    here, there = validated(study()).submission, validated(elsewhere()).submission
    found = boards({"here": here.measurements(), "there": there.measurements()})
    (train,) = [board for board in found if board.window == "train"]
    assert [(e.submission, e.row.technique) for e in train.entries] == [
        ("there", "mqa"), ("there", "mha"), ("here", "mqa"), ("here", "mha"),
    ]  # fmt: skip
    other = shorter.submission.measurements()
    settings = msgspec.structs.replace(other[0].trial.settings, learning_rate=0.5)
    trial = msgspec.structs.replace(other[0].trial, settings=settings)
    other = [msgspec.structs.replace(m, trial=trial) for m in other]
    assert len([b for b in boards({"here": here.measurements(), "x": other}) if b.window == "train"]) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--license", "CC0-1.0"), "go together"),
        (("ada",), "no study"),
    ],
)
def test_wrong_use_is_one_line(folder, tmp_path, words, why):
    done = run("report", *words, "--site", folder, "-o", tmp_path / "s")
    assert why in str(done.exception) and "\n" not in str(done.exception)


def test_a_folder_without_bundles_and_no_study_are_one_line(tmp_path):
    assert "holds no bundle" in str(run("report", "--site", tmp_path).exception)
    assert "needs a study's name" in str(run("report").exception)
    assert "folder of the bundles itself" in str(run("report", "--site", tmp_path, "-o", tmp_path).exception)
