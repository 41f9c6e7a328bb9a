"""From a stored study to its table and page; what `run`, `show` and `report` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efficientllm.errors import ResultsError, did_you_mean

if TYPE_CHECKING:
    from efficientllm.analysis.table import StudyTable
    from efficientllm.records.measurement import Measurement

#: Studies that serve others and have no table of their own.
_NO_TABLE = ("calibration",)


def known_studies(results: Path) -> list[str]:
    """Return the studies of a results folder that have a table."""
    from efficientllm.store.folder import studies

    return [study for study in studies(results) if study not in _NO_TABLE]


def check_study(results: Path, name: str) -> None:
    """Refuse a study that is not there.

    Raises:
        ResultsError: with the nearest name.
    """
    known = known_studies(results)
    if name not in known:
        listed = ", ".join(known) or "none yet; `efficientllm run quickstart` makes one"
        raise ResultsError(f"no study {name!r} in {results}. {did_you_mean(name, known)}Known: {listed}.")


def read_study(results: Path, name: str) -> tuple[list[Measurement], tuple[str, ...]]:
    """Read a study's measurements and the problems with its files.

    Raises:
        ResultsError: there is no such study, with the nearest name.
    """
    from efficientllm.store.folder import Study

    check_study(results, name)
    measurements, problems = Study(results, name).read_all()
    return measurements, tuple(str(problem) for problem in problems)


def study_table_of(results: Path, name: str, title: str = "") -> tuple[StudyTable, list[Measurement]]:
    """Return a study's table; files that cannot be read stand among what is left out."""
    import msgspec

    from efficientllm.analysis.leaderboard import study_table

    measurements, problems = read_study(results, name)
    table = study_table(name, measurements, title=title or _title(results, name))
    return msgspec.structs.replace(table, left_out=(*problems, *table.left_out)), measurements


def write_page(results: Path, name: str, title: str = "") -> tuple[StudyTable, Path]:
    """Write a study's HTML page beside its measurements; return table and file."""
    from efficientllm.report.html import page

    table, measurements = study_table_of(results, name, title)
    file = results / name / "report.html"
    file.write_text(page(table, measurements), encoding="utf-8")
    return table, file


def _title(results: Path, name: str) -> str:
    """Return the title that the study's recipe gives it."""
    from efficientllm.recipes.yaml import parse_mapping
    from efficientllm.store.folder import Study

    recipes = Study(results, name).recipes()
    if not recipes:
        return ""
    newest = max(recipes, key=lambda path: path.stat().st_mtime)
    return str(parse_mapping(newest.read_text(encoding="utf-8"), newest.name).get("title", ""))
