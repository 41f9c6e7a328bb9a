"""The page's charts in a real browser: what a pointer and a keyboard read off them, in light and dark, on a phone."""

from __future__ import annotations

import json
from dataclasses import replace as changed
from itertools import pairwise

import pytest
from msgspec.structs import replace
from tests.chromium import Browser

from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.records.series import Series
from efficientllm.report.html import page as make_page
from efficientllm.report.plane import standings
from efficientllm.units import seconds_text

#: One that is beaten in all, one whose name is hostile.
SLOW = changed(VARIANTS[1], name="slow", train_s=1.4, decode_s=1.6, memory=1.3, bits=2.6)
ODD = changed(VARIANTS[2], name='<b>"x" & {{ y }}')
CHARTS = ("scatter", "roofline", "curves", "timeline")


def _whole():
    """A study whose training curves have joules, and whose power is read."""
    for m in example_study(kind="cuda", energy=True, variants=(*VARIANTS, SLOW, ODD)):
        if m.find("curve"):
            loss = m.find("curve").find("loss")
            energy = replace(
                loss, name="energy_j", unit="j", values=tuple(300.0 * at for at in loss.at_s), source="nvml"
            )
            watts = Series(
                name="power_w", unit="w", at_s=loss.at_s, values=tuple(300.0 for _ in loss.at_s), source="nvml"
            )
            m = replace(m, windows=(replace(m.find("curve"), series=(loss, energy, watts)), *m.windows[1:]))
        yield m


STUDY = list(_whole())


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def shown(browser, tmp_path_factory):
    file = tmp_path_factory.mktemp("charts") / "report.html"
    file.write_text(make_page(study_table("q", STUDY), STUDY), encoding="utf-8")
    return browser.open(file)


@pytest.fixture
def page(shown):
    shown.call("Page.bringToFront")
    shown.look(1400)
    yield shown
    assert shown.complaints() == []
    assert [address for address in shown.requests() if not address.startswith("file:")] == []


def pick(page, chart, label, value):
    """Choose a value of the control that a label names."""
    page.js(
        f"""(() => {{ const l = [...document.querySelectorAll('#{chart}-controls label')].find(l => l.textContent.startsWith({json.dumps(label)}));
        const c = l.querySelector('select, input'); if (c.type === 'checkbox') c.checked = {json.dumps(value)}; else {{
        const o = [...c.options].find(o => o.textContent === {json.dumps(value)} || o.value === {json.dumps(value)}); if (!o) throw Error('no ' + {json.dumps(value)}); c.value = o.value; }}
        c.dispatchEvent(new Event('change')); }})()"""
    )


def _pauses(record) -> list[str]:
    windows = sorted(record.windows, key=lambda window: window.begin_s)
    return [seconds_text(after.begin_s - before.end_s).split(" ")[0] for before, after in pairwise(windows)]


def mark(chart, name):
    return f'#{chart} [data-name="{name}"]'


def test_every_chart_is_drawn(page):
    for chart in CHARTS:
        assert page.js(f"document.querySelectorAll('#{chart} svg path, #{chart} svg circle').length") >= 3, chart
        assert page.js(f"document.querySelector('#{chart} > svg').getAttribute('aria-label')")
    assert page.texts("#predicted") == []


def test_the_pointer_and_the_keyboard_get_a_points_figures(page):
    pick(page, "scatter", "window", "pretrain")
    pick(page, "scatter", "across", "latency_median")
    pick(page, "scatter", "upwards", "bits_per_byte")
    page.hover(mark("scatter", "mla"))
    [told] = page.texts("#scatter .tip")
    assert told.startswith("mla\nStep: ") and "Bits/byte: 2.2" in told and " to " in told
    page.js(f"document.querySelector({json.dumps(mark('scatter', 'gqa'))}).focus()")
    assert page.texts("#scatter .tip")[0].startswith("gqa")
    page.press("ArrowRight")
    assert page.js("document.activeElement.dataset.name") not in (None, "gqa")
    page.press("Escape")
    assert page.texts("#scatter .tip") == []


def test_a_point_leads_to_its_raw_records(page):
    pick(page, "scatter", "window", "pretrain")
    page.js(f"document.querySelector({json.dumps(mark('scatter', 'gqa'))}).focus()")
    page.press("Enter")
    assert page.texts("#evidence-title")[0].startswith("gqa · ")
    assert page.js("document.querySelectorAll('#evidence-of a[href^=\"measurements/\"]').length") == 3
    page.press("Escape")


@pytest.mark.parametrize(
    ("x", "y"), [("latency_median", "bits_per_byte"), ("tokens_per_s", "memory_mean"), ("mfu", "latency_median")]
)
def test_the_front_on_screen_is_the_one_on_paper(page, x, y):
    [section] = [s for s in study_table("q", STUDY, detail=True).sections if s.stage == "pretrain"]
    better = tuple(next(c.better for c in section.columns if c.key == key) for key in (x, y))
    found = standings([(row.technique, row.cells[x], row.cells[y]) for row in section.rows], better)
    pick(page, "scatter", "window", "pretrain")
    pick(page, "scatter", "across", x)
    pick(page, "scatter", "upwards", y)
    said = {
        name: (text, faded)
        for name, text, faded in page.js(
            "[...document.querySelectorAll('#scatter .mark')].map(m => [m.dataset.name, m.getAttribute('aria-label'), m.classList.contains('beaten')])"
        )
    }
    assert {name for name, (text, _) in said.items() if "on the front" in text} == {
        n for n, s in found.items() if s.front
    }
    assert {name for name, (_, faded) in said.items() if faded} == {n for n, s in found.items() if s.beaten_by} != set()
    assert page.js("document.querySelectorAll('#scatter path.front').length") == 1


def test_axes_can_be_logarithmic_and_ticks_differ(page):
    pick(page, "scatter", "window", "pretrain")
    before = page.js("document.querySelector('#scatter .mark rect').getAttribute('x')")
    pick(page, "scatter", "log x", True)
    ticks = page.js(
        "[...document.querySelectorAll('#scatter text[text-anchor=middle]:not(.label)')].map(t => t.textContent)"
    )
    assert len(ticks) == len(set(ticks)) > 1
    assert page.js("document.querySelector('#scatter .mark rect').getAttribute('x')") != before
    pick(page, "scatter", "log x", False)


@pytest.mark.parametrize(
    ("typed", "limits"),
    [
        (("525 ms", ""), (0.525, 99)), (("", "2.4"), (99, 2.4)), (("0,53", "2.33 "), (0.53, 2.33)),
        (("10 µs", ""), (1e-5, 99)), (("525000 us", ""), (0.525, 99)), (("5.25e5µs", "2.4"), (0.525, 2.4)), (("1 min", "9"), (60, 9)), (("2e-1s", "9"), (0.2, 9)),
    ],
    ids=["525 ms", "2.4", "both", "too little", "us", "µs", "ample", "exponent"],
)  # fmt: skip
def test_limits_rule_out_what_is_beyond_them(page, typed, limits):
    [section] = [s for s in study_table("q", STUDY, detail=True).sections if s.stage == "pretrain"]
    kept = {
        row.technique for row in section.rows
        if row.cells["latency_median"].value <= limits[0] and row.cells["bits_per_byte"].value <= limits[1]
    }  # fmt: skip
    for label, value in (("window", "pretrain"), ("across", "latency_median"), ("upwards", "bits_per_byte")):
        pick(page, "scatter", label, value)
    fields = "[...document.querySelectorAll('#scatter-controls .limit input')]"
    put = "(([a, b], values) => [a, b].forEach((f, i) => { f.value = values[i]; f.dispatchEvent(new Event('change')); }))(%s, %s)"
    page.js(put % (fields, json.dumps(typed)))
    said = page.js(
        "[...document.querySelectorAll('#scatter .mark')].map(m => [m.dataset.name, m.getAttribute('aria-label')])"
    )
    assert {name for name, text in said if "outside the limits" not in text} == kept
    assert page.js("document.querySelectorAll('#scatter .ruled-out').length") == sum(map(bool, typed))
    assert page.texts("#scatter figcaption")[0].startswith("pretrain. Within the limits: ")
    page.js(put % (fields, json.dumps(["soon", ""])))
    assert page.js(f"{fields}[0].getAttribute('aria-invalid')") == "true"
    pick(page, "scatter", "across", "memory_mean")
    assert page.js(f"{fields}[0].value") == ""
    page.js(put % (fields, json.dumps(["", ""])))
    assert page.js("document.querySelectorAll('#scatter .ruled-out').length") == 0


@pytest.mark.parametrize("against", ["tokens", "seconds", "joules"])
def test_the_loss_is_read_against_what_was_spent(page, against):
    pick(page, "curve", "against", against)
    page.hover("#curves svg[viewBox][tabindex]")
    [told] = page.texts("#curves .tip")
    assert {"mha", "mla", "slow"} <= {line.split("  ")[-1] for line in told.splitlines()[1:]}
    losses = [float(line.split("  ")[0]) for line in told.splitlines()[1:]]
    assert losses == sorted(losses)
    page.js("document.querySelector('#curves svg[tabindex]').focus()")
    page.press("ArrowLeft", "ArrowLeft")
    assert page.texts("#curves .tip")[0] != told


def test_a_technique_is_hidden_and_shown_by_its_key(page):
    many = page.js("document.querySelectorAll('#curves > svg > path').length")
    page.js("document.querySelector('#curves .key button').focus()")
    page.press("Enter")
    assert page.js("document.querySelectorAll('#curves > svg > path').length") == many - 4
    assert page.js("document.activeElement.getAttribute('aria-pressed')") == "false"
    page.press("Enter")
    assert page.js("document.querySelectorAll('#curves > svg > path').length") == many


def test_any_trial_is_shown_over_time_with_its_windows_and_its_record(page):
    pick(page, "timeline", "stage", "inference")
    pick(page, "timeline", "technique", "mla")
    pick(page, "timeline", "repeat", "2")
    [record] = [m for m in STUDY if (m.trial.stage, m.trial.technique(), m.trial.repeat) == ("inference", "mla", 2)]
    assert (
        page.js("document.querySelector('#timeline figcaption a').getAttribute('href')")
        == f"measurements/{record.id}.json"
    )
    bands = page.js("[...document.querySelectorAll('#timeline .band title')].map(t => t.textContent.split('\\n')[0])")
    assert bands == ["prefill 1 × 512", "decode 1 × 8192", "decode 16 × 8192", "quality"]
    assert "only a few seconds long" in page.texts("#timeline .warnings")[0]
    pauses = page.js("[...document.querySelectorAll('#timeline .pause')].map(t => t.textContent)")
    assert [text.split("⋯")[1].split(" ")[0] for text in pauses] == _pauses(record)  # 160 s take no room, and say so
    pick(page, "timeline", "stage", "pretrain")
    steps, train = page.js(
        """[document.querySelector('#timeline > svg > path'), [...document.querySelectorAll('#timeline .band')]
        .find(b => b.textContent.startsWith('train'))].map(e => { const b = e.getBBox(); return [b.x, b.x + b.width]; })"""
    )
    assert train[0] <= steps[0] and steps[1] <= train[1] + 1 and steps[1] - steps[0] > 0.9 * (train[1] - train[0]) > 300
    page.js("document.querySelector('#timeline svg[tabindex]').focus()")
    page.press(*["ArrowRight"] * 24)
    [told] = page.texts("#timeline .tip")
    assert "memory: " in told and "power: 300 W" in told and "MiB" in told


def test_a_point_under_the_roof_tells_what_binds_it(page):
    page.hover(mark("roofline", "gqa"))
    [told] = page.texts("#roofline .tip")
    assert "FLOP/byte" in told and ("memory binds" in told or "compute binds" in told) and "% of its limit" in told
    assert "cache_resident" in page.texts("#roofline-absent")[0]


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_charts_fit_the_width_and_no_label_lies_on_another(page, width):
    page.look(width, dark=True)
    page.js("new Promise((done) => setTimeout(done, 250))")
    assert page.js("document.documentElement.scrollWidth") <= width
    boxes = page.js(
        "[...document.querySelectorAll('#scatter text.label')].map(t => { const r = t.getBoundingClientRect(); return [r.left, r.top + 3, r.right, r.bottom - 3]; })"
    )
    assert len(boxes) >= 3
    for i, a in enumerate(boxes):
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in boxes[:i])


def test_charts_follow_the_theme_and_go_to_paper(page):
    ink = "getComputedStyle(document.querySelector('#scatter .mark')).stroke"
    light = page.js(ink)
    page.look(1400, dark=True)
    assert page.js(ink) != light
    page.look(1400, media="print")
    assert page.js("getComputedStyle(document.querySelector('#scatter-controls')).display") == "none"
    assert page.js("document.querySelector('#timeline').getBoundingClientRect().width") <= 562


def test_charts_are_drawn_for_the_width_of_paper_and_say_what_they_show(page):
    wide = "document.querySelector('#scatter > svg').viewBox.baseVal.width"
    pick(page, "scatter", "window", "pretrain")
    for label, value in (("stage", "pretrain"), ("technique", "mha"), ("repeat", "0")):
        pick(page, "timeline", label, value)
    page.js("dispatchEvent(new Event('beforeprint'))")
    assert page.js(wide) == 538
    assert page.texts("#scatter figcaption")[0].startswith("pretrain. ")
    assert page.texts("#timeline figcaption")[0].startswith("pretrain · mha, repeat 0. ")
    page.js("dispatchEvent(new Event('afterprint'))")
    assert page.js(wide) > 900


@pytest.mark.parametrize("study", [[], STUDY[:1]], ids=["nothing", "one record"])
def test_charts_of_little_say_so_without_a_complaint(browser, tmp_path, study):
    file = tmp_path / "report.html"
    file.write_text(make_page(study_table("q", study), study), encoding="utf-8")
    opened = browser.open(file)
    said = [opened.texts(f"#{chart} > p") for chart in CHARTS]
    assert all(said) if not study else not said[2] and not said[3]
    assert opened.complaints() == []
    opened.close()
