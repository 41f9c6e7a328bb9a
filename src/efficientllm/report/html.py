"""A study as one self-contained page: no requests, light and dark, for screen, phone and paper.

Tables and charts are drawn by the page's own scripts from its own data, those first that are seen first, so that a page
of 10,000 measurements opens at once. A plotting library would add 0.9 MB to every page, 4 s to every run and 100 MB to
every installation (altair 6.3 with vl-convert 1.9, measured on 2 cores), and its charts follow neither the reader's
theme nor the keyboard.
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
from efficientllm.report import fitting, marks
from efficientllm.report.charts import SCRIPTS, chart_data
from efficientllm.report.claims import claim_views, untested
from efficientllm.report.fitting import Fit
from efficientllm.report.machines import machine_views
from efficientllm.report.marks import Footnotes
from efficientllm.report.page_data import PageTables
from efficientllm.report.page_records import records
from efficientllm.report.predicted import predictions, summary
from efficientllm.report.predicted import shown as shown_predictions
from efficientllm.report.view import SectionView, section_view

_HERE = Path(__file__).parent
#: In this order, in one scope.
_SCRIPTS = (
    "draw.js", "units.js", *SCRIPTS, "state.js", "cells.js", "evidence.js", "copy.js", "tables.js", "details.js",
    "tools.js", "page.js",
)  # fmt: skip
#: Longest part before a colon that is set bold.
_MOST_LEAD = 70
#: So many tables stand on the page also for a reader without JavaScript.
_MOST_PLAIN = 40
#: So many techniques get charts, and their claims beside what was measured.
_MOST_CHARTED, _MOST_CLAIMING = 40, 24


def page(table: StudyTable, measurements: Sequence[Measurement], records_at: str = "measurements") -> str:
    """Return a study's page.

    Args:
        table: from `analysis.leaderboard.study_table`.
        measurements: the records behind it: all their metrics, their training curves and their ids are on the page.
        records_at: folder of the record files, as seen from the page's own.
    """
    measurements = sorted(measurements, key=lambda m: m.started_at)
    names, detailed = fitting.detailed(table.sections)
    full = study_table(table.study, [m for m in measurements if m.id in detailed], detail=True).sections
    shown = (*table.sections, *table.grids, *table.crossovers, *table.rank_changes, *table.budgets, *table.quality)
    fit = fitting.fit(shown, detailed)
    drawn = _Drawn(PageTables({record.id: record for record in measurements}), fit)
    boards = drawn.boards(table, fitting.merged([fit.of(section) for section in table.sections], full))
    charted = fitting.only(full, names[:_MOST_CHARTED])
    judged = msgspec.structs.replace(table, sections=tuple(apart(fitting.only(full, names[:_MOST_CLAIMING]))))
    predicted = predictions(measurements)
    data = {
        "recordsAt": records_at,
        "tables": drawn.tables.tables,
        "columns": drawn.tables.columns,
        "sources": drawn.tables.sources,
        "reasons": list(drawn.tables.notes.reasons),
        "records": records(measurements),
        "legend": marks.LEGEND,
        **chart_data(charted, measurements),
    }
    return _template().render(
        table=table,
        version=__version__,
        num_cut=drawn.num_cut,
        **boards,
        details=[table for table in drawn.tables.tables if table["picks"]],
        notes=drawn.notes,
        claims=claim_views(judged),
        predictions=shown_predictions(predicted),
        num_predictions=len(predicted),
        predicted_summary=summary(predicted),
        untested=[f"{card.title} ({card.source})" if card.source else card.title for card in untested(judged)],
        headings=[where(section.stage, section.window) for section in judged.sections],
        verdict=[_lead(sentence) for sentence in table.verdict],
        legend=marks.LEGEND,
        sanity=marks.sanity_texts(table.sanity),
        machines=machine_views(measurements),
        num_records=len(measurements),
        style=_style(),
        script="\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        data=_json(data),
    )


class _Drawn:
    """The tables of a page as its data has them and as the template has them, under the same names."""

    def __init__(self, tables: PageTables, fit: Fit) -> None:
        self.tables = tables
        self.fit = fit
        self.notes = Footnotes()
        self.num_cut = self.num_views = 0

    def boards(self, table: StudyTable, measured: Sequence[Section]) -> dict[str, list[SectionView]]:
        """Return the template's sections by the part of the page in which they stand."""
        pairs = list(zip(table.sections, measured, strict=True))
        shown = [self._picked(head, all_, f"s{i}") for i, (head, all_) in enumerate(pairs, 1) if not head.in_grid]
        for i, (head, all_) in enumerate(pairs, 1):
            if head.in_grid:
                self.tables.add(all_, f"s{i}", "details", headline=[column.key for column in head.columns])
        return {
            "sections": shown,
            "grids": self._plain(table.grids, "g", "measured"),
            "crossovers": self._plain(table.crossovers, "x", "measured"),
            "rank_changes": self._plain(table.rank_changes, "r", "measured"),
            "budgets": self._plain(table.budgets, "b", "training"),
            "quality": self._plain(table.quality, "q", "training"),
        }

    def _picked(self, head: Section, all_: Section, name: str) -> SectionView:
        """Add a section whose columns the reader picks."""
        self.num_cut = max(self.num_cut, len(head.rows) - len(all_.rows))
        self.tables.add(all_, name, "measured", headline=[column.key for column in head.columns])
        return self._view(head, name)

    def _view(self, section: Section, name: str) -> SectionView:
        self.num_views += 1
        return section_view(section, name, self.notes, plain=self.num_views <= _MOST_PLAIN)

    def _plain(self, sections: Sequence[Section], prefix: str, place: str) -> list[SectionView]:
        views = []
        for index, whole in enumerate(sections, 1):
            section = self.fit.of(whole)
            self.num_cut = max(self.num_cut, len(whole.rows) - len(section.rows))
            self.tables.add(section, f"{prefix}{index}", place)
            views.append(self._view(section, f"{prefix}{index}"))
        return views


def _lead(sentence: str) -> tuple[str, str]:
    r"""Part a sentence of the verdict into what it is about and what it says.

    >>> _lead("Decode, against mha: mqa 29 % less time."), _lead("Nothing was measured yet.")
    (('Decode, against mha', 'mqa 29\xa0% less time.'), ('', 'Nothing was measured yet.'))
    """
    lead, colon, rest = sentence.replace(" %", "\N{NO-BREAK SPACE}%").partition(": ")
    return (lead, rest) if colon and len(lead) <= _MOST_LEAD else ("", f"{lead}{colon}{rest}")


def _style() -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "charts.css", "narrow.css"))


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
