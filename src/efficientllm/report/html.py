"""A study as one self-contained page: no requests, light and dark, for screen, phone and paper.

The charts are drawn by our own scripts from figures in the page itself. A plotting library would add 0.9 MB to every
page, 4 s to every run and 100 MB to every installation (altair 6.3 with vl-convert 1.9, measured on 2 cores), and its
charts follow neither the reader's theme nor the keyboard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
import msgspec

from efficientllm import __version__
from efficientllm.analysis.grid import apart
from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.table import Section, StudyTable
from efficientllm.analysis.words import where
from efficientllm.records.measurement import Measurement
from efficientllm.report import marks
from efficientllm.report.charts import SCRIPTS, chart_data
from efficientllm.report.claims import claim_views
from efficientllm.report.marks import Footnotes
from efficientllm.report.view import section_views

_HERE = Path(__file__).parent
#: In this order, in one scope.
_SCRIPTS = ("draw.js", *SCRIPTS, "page.js")
_STYLES = ("page.css", "charts.css")
#: Longest part before a colon that is set bold.
_MOST_LEAD = 70
#: The page names so many records; the results folder has all.
_MOST_RECORDS = 2000
#: Rows of a section's table, and of its charts and its table of all metrics: a page must stay a page.
_MOST_ROWS, _MOST_DETAILED = 200, 40


def page(table: StudyTable, measurements: Sequence[Measurement]) -> str:
    """Return a study's page.

    Args:
        table: from `analysis.leaderboard.study_table`.
        measurements: the records behind it: all their metrics, their training curves and their ids are on the page.
    """
    notes, detail_notes = Footnotes(), Footnotes()
    shown = _cut(table.shown())
    detailed = _detailed(table.sections)
    full = study_table(table.study, [m for m in measurements if m.trial.technique() in detailed], detail=True)
    judged = msgspec.structs.replace(full, sections=tuple(apart(full.sections)))
    return _template().render(
        table=table,
        version=__version__,
        num_cut=max((len(section.rows) - _MOST_ROWS for section in table.sections), default=0),
        sections=section_views(shown, notes),
        grids=section_views(_cut(table.grids), notes, prefix="g"),
        crossovers=section_views(_cut(table.crossovers), notes, prefix="x"),
        rank_changes=section_views(_cut(table.rank_changes), notes, prefix="r"),
        quality=section_views(_cut(table.quality), notes, prefix="q"),
        budgets=section_views(_cut(table.budgets), notes, prefix="b"),
        details=section_views(full.sections, detail_notes, prefix="d"),
        claims=claim_views(judged),
        headings=[where(section.stage, section.window) for section in judged.sections],
        notes=notes,
        detail_notes=detail_notes,
        verdict=[_lead(sentence) for sentence in table.verdict],
        legend=marks.LEGEND,
        sanity=marks.sanity_texts(table.sanity),
        records=sorted(measurements, key=lambda m: m.started_at)[:_MOST_RECORDS],
        num_records=len(measurements),
        style="\n".join((_HERE / name).read_text(encoding="utf-8") for name in _STYLES),
        script="\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        data=_json(chart_data(full.sections, measurements)),
    )


def _cut(sections: Sequence[Section], most: int = _MOST_ROWS) -> list[Section]:
    """Return sections of at most so many rows: the baseline and the front go before the others."""
    cut = []
    for section in sections:
        kept = sorted(section.rows, key=lambda row: not (row.baseline or row.on_front))[:most]
        rows = section.rows if len(section.rows) <= most else tuple(kept)
        cut.append(msgspec.structs.replace(section, rows=rows))
    return cut


def _detailed(sections: Sequence[Section]) -> set[str]:
    """Return the techniques that get charts and a table of all metrics."""
    names = [row.technique for section in _cut(sections, _MOST_DETAILED) for row in section.rows]
    return set(list(dict.fromkeys(names))[:_MOST_DETAILED])


def _lead(sentence: str) -> tuple[str, str]:
    r"""Part a sentence of the verdict into what it is about and what it says.

    >>> _lead("Decode, against mha: mqa 29 % less time."), _lead("Nothing was measured yet.")
    (('Decode, against mha', 'mqa 29\xa0% less time.'), ('', 'Nothing was measured yet.'))
    """
    lead, colon, rest = sentence.replace(" %", "\N{NO-BREAK SPACE}%").partition(": ")
    return (lead, rest) if colon and len(lead) <= _MOST_LEAD else ("", f"{lead}{colon}{rest}")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html")


def _json(value: object) -> str:
    """Write JSON that cannot end the script element which it stands in."""
    text = msgspec.json.encode(value).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")
