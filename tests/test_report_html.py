"""The page: complete in itself, fetches nothing, lets nothing out of the text it is given."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from efficientllm.analysis.catalogue import entries
from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.cli.report import report
from efficientllm.records.card import Card
from efficientllm.report import fitting
from efficientllm.report.curves import curves, thinned
from efficientllm.report.html import page
from efficientllm.store.folder import Study

STUDY = example_study(kind="cuda", energy=True)
TABLE = study_table("quickstart", STUDY, "Four attention variants")
PAGE = page(TABLE, STUDY)
HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> & {{ 7*7 }}"
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Reader(HTMLParser):
    """Collects elements, attributes and texts; checks that what opens also closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("script", "style")).split())

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


READ = Reader(PAGE)
SCRIPTS = PAGE[PAGE.rindex('"use strict"') :]


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_every_element_is_closed():
    assert READ.open == []


def test_the_page_can_fetch_nothing():
    assert "default-src 'none'" in PAGE
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(READ.tags)
    assert not {"src", "srcset", "action", "poster"} & {key for _, key, _ in READ.attributes}
    assert all(href.startswith("#") for href in READ.values("href"))
    assert "@import" not in PAGE and "url(" not in PAGE
    assert not re.findall(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|importScripts)\b", PAGE)
    assert re.findall(r"https?://[^\s\"'<]+", PAGE) == ["http://www.w3.org/2000/svg"]


def test_a_study_of_24_records_is_a_page_below_half_a_megabyte():
    assert len(PAGE.encode()) < 500_000


def test_the_verdict_stands_before_the_tables():
    assert 0 < PAGE.index(TABLE.verdict[-1]) < PAGE.index('data-table="s1"')


def test_all_figures_of_the_table_are_on_the_page():
    text = READ.text()
    for figure in ("527 ms", "101 mJ", "2.298", "±2.6 %", "=1", "out of memory"):
        assert figure in text


def test_links_inside_the_page_lead_somewhere_and_ids_are_unique():
    ids = READ.values("id")
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in READ.values("href")} <= set(ids)


def test_the_tables_of_the_data_are_those_of_the_analysis():
    data = data_of(PAGE)
    tables = {table["id"]: table for table in data["tables"]}
    assert {table["id"] for table in tables.values() if table["place"] == "measured"} >= {"s1", "s2", "s3", "s4"}
    for section, table in zip(TABLE.sections, (tables[f"s{i}"] for i in range(1, 5)), strict=True):
        assert table["names"] == [row.technique for row in section.rows]
        shown = [data["columns"][table["columns"][place]]["key"] for place in table["heads"]]
        assert shown == [c.key for c in section.columns]
        for index, row in enumerate(section.rows):
            for key, cell in ((key, cell) for key, cell in row.cells.items() if cell.value is not None):
                value, low, rank, repeats = (part(table["cells"][key], name, index) for name in ("v", "lo", "k", "n"))
                assert value == pytest.approx(cell.value, rel=1e-5)
                assert low == (None if cell.low is None else pytest.approx(cell.low, rel=1e-4))
                assert repeats == pytest.approx(list(cell.values.values()), rel=1e-5)
                assert (rank and abs(rank), (rank or 0) < 0) == (cell.rank, cell.tied)


def part(cells: dict, name: str, index: int):
    return (cells.get(name, []) + [None] * 9)[index]


def ids_of(data: dict) -> list[str]:
    words = data["records"]["words"]
    return [f"{trial}-{words[environment]}-{attempt}" for trial, environment, attempt in data["records"]["id"]]


def test_every_row_names_its_records_and_every_absent_figure_its_reason():
    data = data_of(PAGE)
    ids = ids_of(data)
    assert sorted(ids) == sorted(m.id for m in STUDY) and data["recordsAt"] == "measurements"
    table = data["tables"][0]
    mqa = table["names"].index("mqa")
    found = {ids[place] for place in table["records"][mqa]}
    assert found == {m.id for m in STUDY if m.trial.technique() == "mqa" and m.trial.stage == "pretrain"}
    cpu = data_of(page(*_cpu()))
    assert cpu["tables"][0]["cells"]["energy_per_token"]["i"] == []
    reason = cpu["tables"][0]["cells"]["energy_per_token"]["rest"]
    assert cpu["reasons"][reason - 1].startswith("no energy counter")


def test_columns_say_what_they_are_computed_from_and_tables_what_read_it():
    data = data_of(PAGE)
    table, columns = data["tables"][0], {column["key"]: column for column in data["columns"]}
    assert columns["latency_median"]["reads"] == "series `step_s`"
    assert columns["energy_per_token"]["reads"].startswith("figure `energy_j`")
    assert data["sources"][table["sources"]]["step_s"] == "time.perf_counter"


def test_every_metric_says_what_it_is_computed_from():
    assert [entry.column.key for entry in entries() if not entry.reads()] == []


def test_the_page_names_environment_versions_and_protocol():
    text = READ.text()
    for fact in (
        "power cap 700 W",
        "driver 580.65",
        "torch 2.13.0",
        "calibration cal-0",
        "min_window_s 5.0",
        "seeds 0, 1, 2",
    ):
        assert fact in text
    assert "under_5s_window" in text


def test_scripts_of_the_page_declare_no_name_twice():
    """They share one scope, in which a second function would silently replace the first."""
    found = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", SCRIPTS, re.M)
    found += [name for names in re.findall(r"^(?:const|let) \[(.+?)\] =", SCRIPTS, re.M) for name in names.split(", ")]
    assert len(found) > 60 and sorted(found) == sorted(set(found))


@pytest.mark.parametrize(
    "place", ["technique", "title", "verdict", "reason", "condition", "caution", "left_out", "card"]
)
def test_no_text_becomes_markup(place):
    section = TABLE.sections[0]
    row = section.rows[1]
    tables = {
        "technique": replace(TABLE, sections=(replace(section, rows=(replace(row, technique=HOSTILE),)),)),
        "title": replace(TABLE, title=HOSTILE),
        "verdict": replace(TABLE, verdict=(HOSTILE,)),
        "reason": replace(TABLE, sections=(replace(section, rows=(replace(row, cells={}, outcome="crashed", reason=HOSTILE),)),)),
        "condition": replace(TABLE, sections=(replace(section, conditions={"corpus": HOSTILE}),)),
        "caution": replace(TABLE, cautions=(replace(TABLE.cautions[0], text=HOSTILE),)),
        "left_out": replace(TABLE, left_out=(HOSTILE,)),
        "card": replace(TABLE, cards={"mqa": Card(title=HOSTILE, source=HOSTILE, improves=("memory",))}),
    }  # fmt: skip
    study = STUDY
    if place == "card":
        study = [replace(m, cards={"mixer": Card(title=HOSTILE, source=HOSTILE, improves=("memory",))}) for m in STUDY]
    text = page(tables[place], study)
    read = Reader(text)
    assert read.open == [] and read.tags.count("script") == READ.tags.count("script")
    assert "img" not in read.tags and "49" not in re.findall(r"& (\S+)", read.text())
    assert "alert(1)" in read.text()


def test_a_name_cannot_end_the_data_and_arrives_whole():
    study = [
        replace(m, trial=replace(m.trial, axes={"mixer": HOSTILE if i % 4 == 1 else m.trial.axes["mixer"]}))
        for i, m in enumerate(STUDY)
    ]
    text = page(study_table("q", study), study)
    assert Reader(text).tags.count("script") == READ.tags.count("script")
    raw = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    assert not set("<>&") & set(raw)  # `<!--<script ` would keep the element open
    assert HOSTILE in {row["name"] for section in data_of(text)["sections"] for row in section["rows"]}


def test_the_charts_get_every_metric_with_its_interval():
    section = data_of(PAGE)["sections"][0]
    mqa = next(row for row in section["rows"] if row["name"] == "mqa")
    value, low, high = mqa["cells"]["latency_median"]
    assert low < value < high
    assert {"memory_peak", "attained", "energy_net_per_token", "bits_per_byte"} <= {
        c["key"] for c in section["columns"]
    }
    assert [row["baseline"] for row in section["rows"]] == [True, False, False, False]


def test_claims_stand_beside_what_was_measured():
    text = Reader(page(*_cpu())).text()
    assert "improves memory" in text and "costs quality" in text
    assert "▲ as claimed 0.779× (0.778–0.780)" in text
    assert "? cannot tell" in text


def _cpu():
    study = example_study()
    return study_table("q", study), study


def test_a_claim_that_was_measured_the_other_way_round_is_contrary():
    from dataclasses import replace as changed

    slow = changed(VARIANTS[2], train_s=1.5)
    study = example_study(variants=(VARIANTS[0], slow), oom=False)
    assert "▼ contrary to it" in Reader(page(study_table("q", study), study)).text()


def test_loss_curves_start_at_the_first_token_and_are_thinned():
    found = curves(STUDY)
    assert len(found) == 12
    assert all(len(curve.loss) == len(curve.tokens) == len(curve.seconds) <= 160 for curve in found)
    assert found[0].tokens[0] == 2048 and found[0].tokens[-1] == 160 * 2048
    assert found[0].seconds[0] == 0.0
    assert len(thinned(list(range(100_000)))) == 160
    assert sum(thinned([1.0] * 1001)) == 160


def test_joules_are_drawn_only_where_they_cover_the_whole_run():
    assert all(curve.joules == () for curve in curves(STUDY))
    whole = []
    for m in STUDY:
        if m.find("curve"):
            loss = m.find("curve").find("loss")
            energy = replace(loss, name="energy_j", unit="j", values=tuple(300.0 * at for at in loss.at_s))
            curve = replace(m.find("curve"), series=(loss, energy))
            m = replace(m, windows=(curve, *m.windows[1:]))
        whole.append(m)
    found = curves(whole)[0]
    assert found.joules[0] == 0.0
    assert found.joules[-1] == pytest.approx(300 * found.seconds[-1], rel=1e-3)


@pytest.mark.parametrize(
    "study", [[], example_study(repeats=1), example_study(repeats=2, oom=False)], ids=["none", "one", "two"]
)
def test_small_studies_make_whole_pages(study):
    read = Reader(page(study_table("q", study), study))
    assert read.open == []
    assert ("Nothing was measured yet." in read.text()) == (not study)


def test_a_page_of_many_techniques_stays_a_page():
    from dataclasses import replace as changed

    variants = (VARIANTS[0], *(changed(VARIANTS[1], name=f"v{i}") for i in range(120)))
    study = [m for m in example_study(repeats=1, variants=variants) if m.trial.stage == "pretrain"]
    text = page(study_table("q", study), study)
    assert len(text) < 6_000_000
    assert "24 of 121 rows" in Reader(text).text()  # without JavaScript
    assert len(data_of(text)["tables"][0]["names"]) == 121


def _of_vocabulary(record, tokens):
    trial = record.trial
    settings = replace(trial.settings, vocab_tokens=tokens)
    other = replace(trial, id=f"v{trial.id[1:]}", parent=trial.parent and f"v{trial.parent[1:]}", settings=settings)
    return replace(record, id=f"{other.id}-{record.environment.id}-0", trial=other)


def test_sections_that_look_alike_keep_the_figures_of_their_own_records():
    """Two groups may differ in a setting that no heading says."""
    from dataclasses import replace as changed

    slower = example_study(
        kind="cuda", energy=True, variants=tuple(changed(v, train_s=2 * v.train_s) for v in VARIANTS)
    )
    twins = [*STUDY, *(_of_vocabulary(record, 4096) for record in slower)]
    table = study_table("twins", twins)
    data = data_of(page(table, twins))
    first, second = (t for t in data["tables"] if t["heading"] == "pretrain" and t["place"] == "measured")
    for shown in (first, second):
        ends = zip(shown["cells"]["latency_median"]["v"], shown["cells"]["latency_mean"]["v"], strict=True)
        assert all(0.95 < median / mean < 1.05 for median, mean in ends)
    assert second["cells"]["latency_mean"]["v"][0] > 1.5 * first["cells"]["latency_mean"]["v"][0]


def test_a_study_that_no_page_can_hold_loses_rows_and_says_so(monkeypatch):
    from dataclasses import replace as changed

    monkeypatch.setattr(fitting, "_MOST_BYTES", 60_000)
    variants = (VARIANTS[0], *(changed(VARIANTS[1 + i % 3], name=f"v{i}") for i in range(150)))
    study = [m for m in example_study(repeats=1, variants=variants) if m.trial.stage == "pretrain"]
    table = study_table("q", study)
    text = page(table, study)
    [shown] = [t for t in data_of(text)["tables"] if t["id"] == "s1"]
    assert 40 <= len(shown["names"]) < 151
    assert shown["names"][0] == "mha"
    assert f"Up to {151 - len(shown['names'])} rows of a table are not on this page" in Reader(text).text()


def test_a_page_elsewhere_links_to_the_records_from_there(tmp_path):
    Study(tmp_path / "results", "q").write(STUDY[0])
    file = tmp_path / "pages" / "q.html"
    file.parent.mkdir()
    report("q", results=tmp_path / "results", style="html", output=file)
    data = data_of(file.read_text())
    assert (file.parent / data["recordsAt"] / f"{ids_of(data)[0]}.json").is_file()
