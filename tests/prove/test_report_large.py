"""A page of 10,000 measurements: small enough to send, and open at once."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from msgspec.structs import replace as changed
from tests.chromium import Browser

from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.report.html import page

pytestmark = pytest.mark.prove

_MOST_BYTES, _MOST_MS = 6_000_000, 2000
#: When all scripts have run and the reader sees the page, whichever is later.
_OPENED = """Math.max(performance.getEntriesByType('navigation')[0].loadEventEnd,
                      ...performance.getEntriesByType('paint').map((entry) => entry.startTime))"""


def _study(techniques: int, repeats: int, groups: int):
    """Return a study of many techniques, or of many groups that may not be compared."""
    rng, found = random.Random(1), []
    for group in range(groups):
        others = [
            replace(base, name=f"{base.name}(groups={i})", decode_s=rng.uniform(0.5, 1.3), memory=rng.uniform(0.7, 1.2))
            for i, base in enumerate(VARIANTS[1 + i % 3] for i in range(techniques - 1))
        ]
        made = example_study(kind="cuda", energy=True, repeats=repeats, variants=(VARIANTS[0], *others))
        found += [_of_group(record, group) for record in made]
    return found


def _of_group(record, group):
    trial = record.trial
    named = {"id": f"{group:03}{trial.id[3:]}", "parent": trial.parent and f"{group:03}{trial.parent[3:]}"}
    other = changed(trial, settings=changed(trial.settings, vocab_tokens=2048 + 64 * group), **named)
    return changed(record, id=f"{other.id}-{record.environment.id}-0", trial=other)


SHAPES = {"many techniques": (1000, 5, 1), "many groups": (8, 5, 125)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_page_of_10_000_measurements_is_below_6_mb_and_opens_within_2_s(shape, tmp_path):
    study = _study(*shape)
    assert len(study) == 10_000
    file = tmp_path / "report.html"
    file.write_text(page(study_table("large", study), study), encoding="utf-8")
    assert file.stat().st_size < _MOST_BYTES
    with Browser() as browser:
        opened = []
        for _ in range(3):  # the first pays for the browser; others work on this machine too
            shown = browser.open(file)
            shown.until("performance.getEntriesByType('paint').length > 1")
            opened.append(shown.js(_OPENED))
            assert shown.complaints() == []
            shown.close()
        assert min(opened) < _MOST_MS
        shown = browser.open(file)
        shown.click("#tools input")
        shown.type("groups=3")
        names = shown.texts("#s1 tbody .name")
        assert names and all("groups=3" in name for name in names)
        shown.close()
