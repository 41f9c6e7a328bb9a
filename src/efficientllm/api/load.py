"""`efficientllm.load`: stored records as a pandas frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efficientllm.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    import pandas

#: Columns of JSON -> what begins the names of the columns that they become.
_SPREAD = {"axes": "axes.", "coordinates": "coordinates."}


def load(
    study: str | Sequence[str] | None = None, results: str | Path = "results", what: str = "metrics"
) -> pandas.DataFrame:
    """Return stored records as a pandas frame.

        frame = efficientllm.load("quickstart")
        times = frame[(frame.metric == "latency_median") & frame.value.notna()]
        times.pivot_table(index=["stage", "label"], columns="axes.mixer", values="value")

    The rows and columns are those of the view or table of the same name that `efficientllm query` reads and
    `efficientllm query --tables` describes; units are base units. `metrics` is the long form: a row for each metric of
    each window of each measurement, with its `value` and `unit`, or in `absent` why there is none. Beside the JSON of
    `axes` and `coordinates` stands a column for each (`axes.mixer`, `coordinates.batch`). Records in any state are
    in it: take those whose `outcome` is ok and whose `invalid_codes` are `[]` for figures that count.

    Args:
        study: a study's name or several; None for all.
        results: folder of all results.
        what: `metrics`, `measurements`, `series`, `windows`, `figures`, `metric_info` or `files`.

    Raises:
        UserError: pandas is not installed, or there is no such view.
        ResultsError: there is no such study.
    """
    from efficientllm.analysis.database import ask
    from efficientllm.store.views import described

    if what not in described():
        raise UnknownNameError("view", what, described(), where="load(what=…)")
    try:
        import pandas
    except ImportError as error:
        raise UserError("load() gives a pandas frame: pip install 'efficientllm[data]'.") from error
    names = [study] if isinstance(study, str) else list(study or ())
    columns, rows = ask(f"SELECT * FROM {what}", Path(results), names)
    frame = pandas.DataFrame(rows, columns=columns)
    for column, before in _SPREAD.items():
        if column in frame:
            told = {text: json.loads(text) for text in frame[column].dropna().unique()}
            for key in sorted({key for values in told.values() for key in values}):
                frame[f"{before}{key}"] = [told.get(text, {}).get(key) for text in frame[column]]
    return frame
