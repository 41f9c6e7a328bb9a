"""SQL over several studies at once: their indexes copied into one, in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from efficientllm.store import schema
from efficientllm.store.index import INSERT, Index, make_tables
from efficientllm.store.sql import Answer, answer, explained


def query_all(indexes: Sequence[Index], sql: str, metric_info: Sequence[schema.Row] = ()) -> Answer:
    """Answer one SQL statement that only reads over the studies of several indexes, each brought up to date.

    Measurements are numbered through, so that tables join as within one study; `study` tells them apart.

    Raises:
        UserError: sqlite cannot run it, or it would write; with sqlite's words and the real names.
    """
    if len(indexes) == 1:
        return indexes[0].query(sql)
    whole = sqlite3.connect(":memory:")
    try:
        make_tables(whole, "", metric_info)
        taken = 0
        for index in indexes:
            taken = _copy(index, whole, taken)
        whole.commit()
        try:
            return answer(whole, sql)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise explained(error, sql) from error
    finally:
        whole.close()


def _copy(index: Index, whole: sqlite3.Connection, taken: int) -> int:
    """Copy an index's rows, its measurements numbered after `taken`; return the last number."""
    last = taken
    for table, rows in index.rows().items():
        columns = list(schema.TABLES[table])
        for row in rows:
            told: schema.Row = dict(zip(columns, row, strict=True))
            told["measurement"] += taken
            last = max(last, told["measurement"])
            if table == "files":  # unique among studies
                told["file"] = f"{index.study.name}/{told['file']}"
            whole.execute(INSERT[table], told)
    return last
