"""The page in a real browser: what a reader's hands do with it, at three widths, in light and dark, without a network."""

from __future__ import annotations

import json
from dataclasses import replace as changed
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests import chromium
from tests.chromium import Browser, executable

from efficientllm import units
from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.records.grid import Grid
from efficientllm.report import html

#: Names that every format must escape.
ODD = changed(VARIANTS[2], name='mqa|50%_"a", {b}')
FIRST = "#s1 tbody tr:first-child"
WIDTHS = (390, 800, 1400)
#: Lays out what is far below too, so that its width counts.
ALL = "document.head.append(Object.assign(document.createElement('style'), {textContent: 'article { content-visibility: visible !important }'}))"


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study's page beside its records, as `report` leaves it."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "measurements").mkdir()
    records = example_study(kind="cuda", variants=(*VARIANTS[:2], ODD, VARIANTS[3]))
    for record in records:
        (folder / "measurements" / f"{record.id}.json").write_text('{"id": "' + record.id + '"}')
    file = folder / "report.html"
    file.write_text(html.page(study_table("quickstart", records, "Four variants"), records), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def shared(browser, study):
    return browser.open(study)


@pytest.fixture
def page(shared, study):
    """The page as it opens: nothing chosen; it must not have complained when the test is over."""
    shared.call("Page.bringToFront")
    shared.look(1400)
    shared.js(
        "document.querySelectorAll('dialog[open]').forEach(d => d.close()); history.replaceState(null, '', location.pathname); dispatchEvent(new HashChangeEvent('hashchange'))"
    )
    yield shared
    assert shared.complaints() == []


def names(page, table="s1"):
    return page.texts(f"#{table} tbody .name")


def column(page, key, table="s1"):
    return page.texts(f'#{table} td[data-key="{key}"] .figure')


def select(page, name, value):
    page.js(
        f"(() => {{ const s = document.querySelector('#tools [name=\"{name}\"]'); s.value = {json.dumps(value)}; s.dispatchEvent(new Event('change')); }})()"
    )


def pasted(page):
    """What a reader gets who pastes after copying."""
    page.js(
        "document.body.append(Object.assign(document.createElement('textarea'), {id: 'paste'})); document.getElementById('paste').focus()"
    )
    page.call("Input.dispatchKeyEvent", type="keyDown", key="v", commands=["paste"])
    return page.js("(() => { const t = document.getElementById('paste'); t.remove(); return t.value; })()")


def test_a_heading_sorts_best_first_then_the_other_way_then_as_measured(page):
    assert names(page) == ["mha", "gqa", ODD.name, "mla"]
    for expected, state in (
        (["mla", ODD.name, "gqa", "mha"], "ascending"),
        (["mha", "gqa", ODD.name, "mla"], "descending"),
    ):
        page.click('#s1 [data-sort="memory_mean"]')
        assert names(page) == expected
        assert page.js("document.querySelector('#s1 [aria-sort]').getAttribute('aria-sort')") == state
    page.click('#s1 [data-sort="memory_mean"]')
    page.click('#s1 [data-sort="tokens_per_s"]')  # more is better
    assert page.js("document.querySelector('#s1 [aria-sort]').getAttribute('aria-sort')") == "descending"
    assert names(page)[-1] == "mla"


def test_search_and_filters_leave_the_rows_that_match_in_all_tables(page):
    page.click("#tools input")
    page.type("mq")
    assert names(page) == names(page, "s3") == [ODD.name]
    assert "5 of 20 rows" in page.texts("#tools output")[0]
    page.click("#reset")
    select(page, "axis.mixer", "mla")
    assert names(page) == ["mla"]
    page.click("#reset")
    select(page, "stage", "inference")
    assert names(page) == [] and names(page, "s2")
    page.click("#reset")
    select(page, "show", "out of memory")
    assert page.texts("#s4 .outcome strong") == ["out of memory"] and names(page) == []
    select(page, "show", "ok")
    assert page.texts("#s4 .outcome") == [] and len(names(page)) == 4
    select(page, "show", "failed")
    assert page.texts("#s4 .outcome strong") == ["out of memory"] and names(page) == []


def test_metrics_are_picked_and_the_address_keeps_every_choice(page, browser, study):
    page.click("#pick")
    page.click('#metrics input[value="memory_peak"]')
    page.click('#metrics input[value="mfu"]')
    page.press("Escape")
    heads = page.texts("#s1 thead th")
    assert "Peak memory↓" in heads and "MFU↑" not in heads
    assert len(column(page, "memory_peak")) == 4
    page.click('#s1 [data-sort="memory_peak"]')
    page.click("#tools input")
    page.type("l")
    again = browser.open(study, hash_=page.js("location.hash"))
    assert again.texts("#s1 thead th") == heads and names(again) == names(page) == ["mla"]
    again.close()


def test_links_inside_the_page_keep_the_choices(page):
    page.click("#tools input")
    page.type("mla")
    page.click('nav a[href="#evidence"]')
    assert "q=mla" in page.js("location.hash") and names(page) == ["mla"]
    assert page.js("document.activeElement.id") == "evidence"


def test_a_figure_opens_its_evidence_and_leads_to_its_raw_records(page, study):
    page.click('#s1 tr:nth-child(2) td[data-key="latency_median"]')
    [text] = page.texts("#evidence-of")
    assert text.startswith("gqa · Step")
    for said in (
        "95 % interval",
        "tied with",
        "against the baseline",
        "series step_s",
        "step_s read by time.perf_counter",
    ):
        assert said in text
    links = page.js("[...document.querySelectorAll('#evidence-of a')].map(a => a.href)")
    assert len(links) == 3
    assert all((study.parent / "measurements" / Path(link).name).is_file() for link in links)
    page.press("Escape")
    assert page.texts("#evidence-of") == []


def test_the_evidence_of_what_failed_and_of_what_is_absent_says_why(page):
    page.click("#s4 .outcome")
    assert "OutOfMemoryError" in page.texts("#evidence-of")[0]
    page.press("Escape")
    page.click("#s1 td.absent")
    assert "no energy counter" in page.texts("#evidence-of")[0]
    assert page.texts("#s1 td.absent sup") == ["1"] * 4
    assert page.texts("#notes li:first-child")[0].startswith("no energy counter")


def test_the_keyboard_reaches_every_figure(page):
    page.js("document.querySelector('#s1 [data-sort=\"bits_per_byte\"]').focus()")
    page.press("Tab")  # one stop for the whole table
    assert page.js("document.activeElement.matches('#s1 tbody tr:first-child th')")
    page.press("ArrowDown", "ArrowRight", "ArrowRight", "Enter")
    assert page.texts("#evidence-title") == ["gqa · MFU"]
    page.press("Escape")
    assert page.js("document.activeElement.dataset.key") == "mfu"
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_pointer_on_a_figure_gets_its_interval(page):
    page.hover('#s1 tr:nth-child(2) td[data-key="memory_mean"]')
    assert "95 % interval" in page.js(
        "document.querySelector('#s1 tr:nth-child(2) td[data-key=\"memory_mean\"]').title"
    )
    assert (
        page.js(
            "getComputedStyle(document.querySelector('#s1 tr:nth-child(2) td[data-key=\"memory_mean\"] .figure')).textDecorationLine"
        )
        == "underline"
    )


@pytest.mark.parametrize("style", ["Markdown", "CSV", "LaTeX"])
def test_a_table_is_copied_as_it_is_shown(page, style):
    select(page, "show", "front")
    page.click('#s1 [data-sort="memory_mean"]')
    shown = names(page)
    page.click("#s1 .menu summary")
    page.js(f"[...document.querySelectorAll('#s1 .menu button')].find(b => b.textContent === '{style}').click()")
    page.until(f"document.getElementById('said').textContent === '{len(shown)} rows as {style} copied'")
    text = pasted(page)
    lines = text.strip().splitlines()
    if style == "Markdown":
        assert lines[0].startswith("| technique | Memory |") and lines[1] == "|:--|" + "--:|" * 7
        assert all(len(line.replace("\\|", "").split("|")) == 10 for line in lines)
        assert 'mqa\\|50%\\_"a", {b}' in text and "<br><sub>±" in text
    elif style == "CSV":
        assert lines[0].startswith("technique,Memory [bytes],Memory [bytes] low,")
        assert '"mqa|50%_""a"", {b}",' in text and "▲" not in text
    else:
        assert lines[1] == "\\begin{tabular}{lrrrrrrr}" and lines[-1] == "\\end{tabular}"
        assert 'mqa$|$50\\%\\_"a", \\{b\\}' in text and "$\\pm$" in text and "±" not in text
    assert len(shown) == text.count("\n") - {"Markdown": 2, "CSV": 1, "LaTeX": 7}[style]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_its_width_in_light_and_dark(page, width, dark):
    page.look(width, dark=dark)
    page.js(ALL)
    assert page.js("document.documentElement.scrollWidth") <= width
    light = page.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 128")
    assert light is not dark
    page.click(FIRST + " td")
    box = page.js(
        "(() => { const r = document.querySelector('#evidence-of').getBoundingClientRect(); return [r.left, r.right]; })()"
    )
    assert box[0] >= 0 and box[1] <= width


def test_grids_and_cells_of_words_fit_a_phone_too(browser, tmp_path):
    points = tuple(Grid(batch=batch, tokens=tokens) for batch in (1, 4, 16, 64) for tokens in (512, 8192))
    records = example_study(decode=points)
    file = tmp_path / "report.html"
    file.write_text(html.page(study_table("grid", records), records), encoding="utf-8")
    page = browser.open(file, width=390)
    assert page.texts("#x1 td.words") and names(page, "g2")[0] == "batch 1, 512 tokens"
    page.js(ALL)
    assert page.js("document.documentElement.scrollWidth") <= 390 and page.complaints() == []
    page.click('#s1 td[data-key="memory_mean"]')
    page.close()


def test_the_reader_may_choose_the_colours(page):
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.js(background)
    for _ in range(2):
        page.click("#theme")
    assert page.js("document.documentElement.dataset.theme") == "dark" and page.js(background) != before
    page.click("#theme")
    assert page.js(background) == before


def test_paper_gets_every_fold_open_and_no_controls(page):
    page.js("dispatchEvent(new Event('beforeprint'))")
    page.look(800, media="print")
    assert page.js("[...document.querySelectorAll('main details:not(.menu)')].every(d => d.open)")
    assert page.texts("#tools, .menu, #theme") == [] and len(page.texts(".detail tbody tr")) > 40
    page.js("dispatchEvent(new Event('afterprint'))")
    assert page.js("document.querySelectorAll('main details[open]').length") == 0


def test_the_page_asks_for_nothing_but_itself(shared, study):
    assert shared.requests() == [study.as_uri()]


def test_figures_read_the_same_as_on_the_terminal(shared):
    """`units.js` beside `units.py`."""
    kinds = (
        "bytes",
        "s",
        "j",
        "w",
        "ratio",
        "factor",
        "count",
        "bits/byte",
        "flop/s",
        "bytes/s",
        "tokens/s",
        "j/token",
        "error",
        "setting",
        "tokens",
        "requests/s",
    )
    values = [
        0.0,
        1.0,
        0.7,
        999.6,
        1e-10,
        3.3e-5,
        0.0123456,
        12.3456,
        99.96,
        1023.7,
        1.5e4,
        123456.7,
        7654321.5,
        8.2e9,
        3.1e12,
        6.6e15,
    ]
    cases = [(value, kind, digits) for kind in kinds for value in values for digits in (3, 4)]
    script = (Path(html.__file__).parent / "units.js").read_text()
    found = shared.js(f"(() => {{ {script}; return {json.dumps(cases)}.map((c) => quantityText(...c)); }})()")
    wrong = [
        (case, text, units.quantity_text(*case))
        for case, text in zip(cases, found, strict=True)
        if text != units.quantity_text(*case)
    ]
    assert wrong == []


def test_a_long_table_shows_its_first_rows_and_gives_the_rest(browser, tmp_path):
    variants = (VARIANTS[0], *(changed(VARIANTS[1 + i % 3], name=f"v{i}") for i in range(80)))
    records = [m for m in example_study(repeats=1, variants=variants) if m.trial.stage == "pretrain"]
    file = tmp_path / "report.html"
    file.write_text(html.page(study_table("wide", records), records), encoding="utf-8")
    page = browser.open(file)
    assert len(names(page)) == 24
    page.click("#s1 .more button")
    assert len(names(page)) == 81
    page.click("#records summary")
    page.until("document.querySelectorAll('#records tbody tr').length === 81")
    assert page.texts("#records tbody tr:first-child td")[-1] == "2026-11-03T10:00:00Z"
    assert page.complaints() == []
    page.close()


def test_a_study_without_measurements_is_a_page_too(browser, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(html.page(study_table("none", []), []), encoding="utf-8")
    page = browser.open(file, width=390)
    assert page.complaints() == [] and "Nothing was measured yet." in page.texts("#main")[0]
    page.close()


def test_no_text_of_a_study_becomes_markup_when_the_scripts_write_it(browser, tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    records = example_study(variants=(VARIANTS[0], changed(VARIANTS[1], name=hostile)))
    records = [replace(m, cautions=()) for m in records]
    file = tmp_path / "report.html"
    file.write_text(html.page(study_table("q", records, hostile), records), encoding="utf-8")
    page = browser.open(file)
    page.click("#s1 tr:nth-child(2) td")
    assert page.texts("#evidence-title") == [f"{hostile} · Memory"]
    assert page.js("document.querySelectorAll('img').length") == 0 and page.complaints() == []
    page.close()


def test_a_browser_that_is_named_and_missing_fails_and_none_at_all_is_said(monkeypatch):
    monkeypatch.setenv("EFFICIENTLLM_CHROMIUM", "/no/such/browser")
    with pytest.raises(pytest.fail.Exception, match="/no/such/browser"):
        executable()
    monkeypatch.setenv("EFFICIENTLLM_CHROMIUM", "")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(chromium, "_NAMES", ("chromium",))
    with pytest.raises(pytest.skip.Exception, match="EFFICIENTLLM_CHROMIUM"):
        executable()
