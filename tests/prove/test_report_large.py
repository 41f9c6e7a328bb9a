"""A page of 10,000 measurements: small enough to send, and open at once."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.chromium import Browser

from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.report.html import page

pytestmark = pytest.mark.prove

_MOST_BYTES, _MOST_MS = 6_000_000, 2000


def _study(techniques: int, repeats: int):
    rng = random.Random(1)
    others = [replace(VARIANTS[1 + i % 3], name=f"{VARIANTS[1 + i % 3].name}(groups={i})",
                      decode_s=rng.uniform(0.5, 1.3), memory=rng.uniform(0.7, 1.2)) for i in range(techniques - 1)]  # fmt: skip
    return example_study(kind="cuda", energy=True, repeats=repeats, variants=(VARIANTS[0], *others))


@pytest.mark.parametrize(("techniques", "repeats"), [(1000, 5), (100, 50)], ids=["many techniques", "many repeats"])
def test_a_page_of_10_000_measurements_is_below_6_mb_and_opens_within_2_s(techniques, repeats, tmp_path):
    study = _study(techniques, repeats)
    assert len(study) == 10_000
    file = tmp_path / "report.html"
    file.write_text(page(study_table("large", study), study), encoding="utf-8")
    assert file.stat().st_size < _MOST_BYTES
    with Browser() as browser:
        browser.open(file).close()  # the first page of a browser pays for the browser
        shown = browser.open(file, width=1400)
        opened = shown.js("performance.getEntriesByType('navigation')[0].loadEventEnd")
        shown.until("performance.getEntriesByType('paint').length > 1")
        painted = shown.js("Math.max(...performance.getEntriesByType('paint').map((entry) => entry.startTime))")
        assert max(opened, painted) < _MOST_MS
        assert len(shown.texts("#s1 tbody tr")) == 24
        shown.click("#tools input")
        shown.type("groups=77")
        assert all("groups=77" in name for name in shown.texts("#s1 tbody .name"))
        assert shown.complaints() == []
