"""Write a study's figures into a folder; the same study gives the same bytes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientllm.analysis.grid import apart
from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.table import Section, StudyTable
from efficientllm.errors import ResultsError, UserError
from efficientllm.records.measurement import Measurement
from efficientllm.report import fitting, marks
from efficientllm.report.figures import bars, limits, tradeoffs, training
from efficientllm.report.figures.look import applied, inks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
#: So many techniques are drawn.
_MOST = 40
#: What would differ from one day to the next.
_UNDATED: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "ModDate": None},
    "png": {"Software": None},
}


def write_figures(table: StudyTable, measurements: Sequence[Measurement], folder: Path, style: str) -> list[Path]:
    """Write trade-offs and bars of each window, training curves, and the roofline; return the files.

    Args:
        table: from `analysis.leaderboard.study_table`.
        measurements: the records behind it.
        folder: made if need be; files of the same names are replaced.
        style: one of `FORMATS`.

    Raises:
        UserError: matplotlib is not installed.
        ResultsError: the folder cannot be written, or there is nothing to draw.
    """
    _need_matplotlib()
    written, seen = list[Path](), dict[str, int]()  # two machines' windows have the same name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with applied():
            for name, figure in _figures(table, measurements):
                seen[name] = seen.get(name, 0) + 1
                file = folder / f"{name}{f'-{seen[name]}' if seen[name] > 1 else ''}.{style}"
                figure.savefig(file, format=style, metadata=_UNDATED[style])
                written.append(file)
    except OSError as error:
        raise ResultsError(f"cannot write {folder}: {error.strerror}. Give another --output.") from error
    if not written:
        raise ResultsError(f"study {table.study!r} has nothing to draw: no window of it has figures yet.")
    return written


def _need_matplotlib() -> None:
    try:
        importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise UserError(
            "figures need matplotlib: pip install 'efficientllm[figures]' (or take --format html)."
        ) from error


def _figures(table: StudyTable, measurements: Sequence[Measurement]) -> Iterator[tuple[str, Figure]]:
    ranked, detailed = fitting.detailed(table.sections)
    names = ranked[:_MOST]
    records = [m for m in measurements if m.id in detailed and m.trial.technique() in names]
    sections = apart(fitting.only(study_table(table.study, records, detail=True).sections, names))
    rows = (row.technique for section in sections for row in section.rows)
    ink = inks(list(dict.fromkeys([*rows, *(record.trial.technique() for record in records)])))
    for section in sections:
        place = slug(marks.heading(section.stage, section.window))
        for keys, figure in tradeoffs.figures(section, ink):
            yield f"pareto-{place}-{'-'.join(keys)}", figure
        yield from _one(f"bars-{place}", bars.figure(_headline(table, section), section, ink))
    yield from ((f"training-{slug(stage)}-{kind}", figure) for stage, kind, figure in training.figures(records, ink))
    yield from ((f"roofline-{slug(heading)}", figure) for heading, figure in limits.figures(sections, records, ink))


def _one(name: str, figure: Figure | None) -> Iterator[tuple[str, Figure]]:
    if figure is not None:
        yield name, figure


def _headline(table: StudyTable, section: Section) -> list[str]:
    """Return the metrics that head a window's table."""
    same = (other for other in table.sections if (other.stage, other.window) == (section.stage, section.window))
    return [column.key for other in same for column in other.columns]


def slug(text: str) -> str:
    """Write a text so that it can be a part of a file's name.

    >>> slug("inference · decode, batch 1, 8192 tokens")
    'inference-decode-batch-1-8192-tokens'
    """
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")
