"""A folder of bundles as a static site: one leaderboard, a page a bundle, the bundles and their metrics as data.

Every link is relative and nothing is fetched, so that the site works from a folder as from a server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from efficientllm import __version__
from efficientllm.analysis.across import Board, boards
from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.long_table import as_csv
from efficientllm.analysis.table import Cell, Column, Row
from efficientllm.errors import ResultsError
from efficientllm.records.measurement import Measurement
from efficientllm.report import marks
from efficientllm.report.croissant import About, croissant
from efficientllm.report.html import page
from efficientllm.validity.fingerprint import shared
from efficientllm.validity.validate import INTEGRITY, Validation

_HERE = Path(__file__).parent
_TABLE, _DESCRIPTION = "metrics.csv", "croissant.json"
#: So many reasons of a refusal are shown; `validate` shows all.
_MOST_REASONS = 5


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """One bundle of the folder: its file's name and bytes, and what validation says of it."""

    file: str
    data: bytes
    validation: Validation

    @property
    def stem(self) -> str:
        """Its name as part of a link."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", self.name)

    @property
    def page(self) -> str:
        """Its page in the site."""
        return f"submissions/{self.stem}.html"

    @property
    def bundle(self) -> str:
        """Its bundle in the site."""
        return f"bundles/{self.stem}.tar.xz"

    @property
    def name(self) -> str:
        """What it is called on the leaderboard."""
        return re.sub(r"(\.efficientllm)?\.tar\.xz$", "", self.file)

    @property
    def measurements(self) -> list[Measurement]:
        """What it holds."""
        return self.validation.submission.measurements()

    @property
    def anonymised(self) -> bool:
        """Whether its manifest says that it hides whose it is."""
        manifest = self.validation.submission.manifest
        return bool(manifest and manifest.anonymised)


@dataclass(frozen=True)
class _CellView:
    label: str
    figure: str
    evidence: str = ""
    sign: str = ""
    verdict: str = ""
    hint: str = ""


def site(submitted: Sequence[Submitted], title: str, about: About | None = None) -> dict[str, bytes]:
    """Return the files of the site: path -> bytes.

    Args:
        submitted: all bundles; those that are refused are listed with the reason, and nothing of them is counted.
        title: of the index.
        about: licence and creator; without them there is no description of the data for machines.

    Raises:
        ResultsError: two bundles whose names make the same link.
    """
    valid = [one for one in submitted if one.validation.valid]
    files: dict[str, bytes] = {}
    for one in valid:
        if one.bundle in files:
            raise ResultsError(f"{one.file}: another bundle has a name that makes the same link. Rename one of them.")
        files[one.bundle] = one.data
    by_name = {one.name: one.measurements for one in valid}
    files[_TABLE] = as_csv(by_name).encode()
    for one in valid:
        table = study_table(one.name, one.measurements, title=one.name)
        files[one.page] = page(table, one.measurements).encode()
    if about is not None:
        data = {path: content for path, content in files.items() if not path.endswith(".html")}
        files[_DESCRIPTION] = croissant(about, data, _TABLE)
    files["index.html"] = _index(submitted, boards(by_name), title, about).encode()
    return files


def _index(submitted: Sequence[Submitted], found: Sequence[Board], title: str, about: About | None) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    twins = shared({one.name: one.measurements for one in submitted if one.validation.valid})
    pages = {one.name: one.page for one in submitted}
    return environment.get_template("site.html").render(
        title=title,
        version=__version__,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        integrity=INTEGRITY,
        valid=[_submission(one, twins.get(one.name, ())) for one in submitted if one.validation.valid],
        refused=[_refusal(one) for one in submitted if not one.validation.valid],
        boards=[_board(board, pages) for board in found],
        legend=marks.LEGEND[:1],
        table=_TABLE,
        description=_DESCRIPTION if about is not None else "",
        about=about,
    )


def _submission(one: Submitted, twins: Sequence[str]) -> dict[str, object]:
    measurements = one.measurements
    devices = dict.fromkeys(device.name for m in measurements for device in m.environment.devices)
    told = [fault.why for result in one.validation.results for fault in result.faults]
    return {
        "name": one.name,
        "page": one.page,
        "file": one.bundle,
        "size": f"{len(one.data) / 1024:.0f} KiB",
        "measurements": len(measurements),
        "devices": ", ".join(devices),
        "software": ", ".join(sorted({m.software_version for m in measurements if m.software_version})),
        "dates": _dates(measurements),
        "anonymous": one.anonymised,
        "twins": list(twins),
        "told": told[:_MOST_REASONS],
        "unranked": all(m.trial.protocol.name == "smoke" for m in measurements),
    }


def _dates(measurements: Sequence[Measurement]) -> str:
    days = sorted({m.started_at[:10] for m in measurements if m.started_at})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""


def _refusal(one: Submitted) -> dict[str, object]:
    reasons = [f"{check}: {fault.where}: {fault.why}" for check, fault in one.validation.refused]
    reasons = [
        reason.replace(one.validation.submission.name, one.file) for reason in reasons
    ]  # no path of this machine
    return {"name": one.file, "reasons": reasons[:_MOST_REASONS], "more": max(0, len(reasons) - _MOST_REASONS)}


def _board(board: Board, pages: Mapping[str, str]) -> dict[str, object]:
    return {
        "heading": marks.heading(board.stage, board.window),
        "model": board.conditions.get("model", ""),
        "conditions": list(board.conditions.items()),
        "columns": board.columns,
        "submissions": len(board.submissions()),
        "devices": list(dict.fromkeys(entry.device for entry in board.entries)),
        "rows": [
            {
                "technique": entry.row.technique,
                "baseline": entry.row.baseline,
                "stated": _stated(entry.row),
                "submission": entry.submission,
                "page": pages[entry.submission],
                "device": entry.device,
                "software": entry.software,
                "machine": entry.machine,
                "cells": [_cell(column, entry.row.cells.get(column.key, Cell())) for column in board.columns],
            }
            for entry in board.entries
        ],
    }


def _stated(row: Row) -> str:
    return marks.stated_text(row).replace(marks.ON_FRONT, "").strip() + " of limit" * ("attained" in row.stated)


def _cell(column: Column, cell: Cell) -> _CellView:
    if cell.value is None:
        return _CellView(label=column.title, figure="–", hint=cell.absent or "not measured")
    return _CellView(
        label=column.title,
        figure=marks.figure_text(column, cell.value),
        evidence=marks.evidence_text(cell),
        sign=marks.SIGNS.get(cell.verdict, ""),
        verdict=cell.verdict,
        hint=column.meaning,
    )
