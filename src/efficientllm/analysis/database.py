"""SQL over stored studies, metrics included: what `query` and `load` share."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from efficientllm.analysis.values import metric_info, told_metrics
from efficientllm.catalog import PACKAGE
from efficientllm.errors import ResultsError, did_you_mean
from efficientllm.registry import file_sha256
from efficientllm.store.folder import Study, studies
from efficientllm.store.index import Index
from efficientllm.store.sql import Answer
from efficientllm.store.union import query_all


def ask(sql: str, results: Path, names: Sequence[str] = ()) -> Answer:
    """Answer one SQL statement that only reads, over some studies of a results folder, or over all.

    Args:
        sql: over the tables and views of `store.views.described`.
        results: folder of all results.
        names: studies, or none for all that there are.

    Returns:
        the columns' names and the rows.

    Raises:
        ResultsError: there is no such study, with the nearest name.
        UserError: sqlite cannot run it, or it would write; with the real names.
    """
    known = studies(results)
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none yet; `efficientllm run quickstart` makes one"
            raise ResultsError(f"no study {name!r} in {results}. {did_you_mean(name, known)}Known: {listed}.")
    wanted = list(dict.fromkeys(names)) or known
    if not wanted:
        raise ResultsError(f"no study in {results} yet; `efficientllm run quickstart` makes one.")
    info = metric_info()
    indexes = [Index(Study(results, name), told_metrics, _metrics_version(), info) for name in wanted]
    return query_all(indexes, sql, info)


@functools.cache
def _metrics_version() -> str:
    """Return a hash of the code that the metrics are made of: when it changes, the index is built anew."""
    hashes = [file_sha256(path) for room in ("analysis", "physics") for path in sorted((PACKAGE / room).rglob("*.py"))]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
