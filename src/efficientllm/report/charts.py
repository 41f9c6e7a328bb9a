"""What the page's charts are drawn from, a key for each, and the scripts that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efficientllm.analysis.catalogue import group_of
from efficientllm.analysis.table import Section
from efficientllm.records.measurement import Measurement
from efficientllm.report import marks
from efficientllm.report.curves import curves
from efficientllm.report.roofline import roof_charts
from efficientllm.report.timeline import timelines

#: After `draw.js` in one scope; `charts.js` starts them all.
SCRIPTS = (
    "axes.js", "cursor.js", "front.js", "limits.js", "scatter.js", "curves.js", "timescale.js", "timeline.js",
    "roofline.js", "charts.js",
)  # fmt: skip


def chart_data(sections: Sequence[Section], measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return what the charts draw, for JSON.

    Args:
        sections: with all metrics as columns, of the techniques that get charts.
        measurements: the study's records.
    """
    return {
        "sections": [_points(section) for section in sections],
        "curves": curves(measurements),
        "timelines": timelines(measurements),
        "roofs": roof_charts(sections, measurements),
    }


def _points(section: Section) -> dict[str, Any]:
    """Return a section's figures as the charts take them."""
    return {
        "heading": marks.heading(section.stage, section.window),
        "columns": [
            {"key": c.key, "title": c.title, "unit": c.unit, "better": c.better, "group": group_of(c.key)}
            for c in section.columns
        ],
        "rows": [
            {
                "name": row.technique,
                "baseline": row.baseline,
                "front": row.on_front,
                "cells": {
                    key: [cell.value, cell.low, cell.high] for key, cell in row.cells.items() if cell.value is not None
                },
            }
            for row in section.rows
            if row.cells
        ],
    }
