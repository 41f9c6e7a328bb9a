"""Parquet files: one row a document, its text in one column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from efficientllm.data.corpora._contract import Corpus, CorpusEntry, example_documents
from efficientllm.data.corpora._records import RecordCorpus, text_of
from efficientllm.errors import DataError
from efficientllm.records.choice import Scalar

ENDINGS = (".parquet",)


def open_parquet(path: str, text_key: str = "text") -> Corpus:
    """Open a Parquet file, or a folder of them.

    Raises:
        DataError: no such path, pyarrow is missing; while reading, no such column, or a row that is not text.
    """
    _import_parquet()
    return RecordCorpus("parquet", path, ENDINGS, text_key, lambda file: _texts(file, text_key))


def _texts(file: Path, text_key: str) -> Iterator[str]:
    pyarrow, parquet = _import_parquet()
    try:
        table = parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} is not a Parquet file: {str(error).splitlines()[0]}") from error
    columns = table.schema_arrow.names
    if text_key not in columns:
        raise DataError(f"{file}: no column {text_key!r} (its columns: {', '.join(columns)}). Set text_key to one.")
    number = 0
    for batch in table.iter_batches(batch_size=1024, columns=[text_key]):
        for record in batch.to_pylist():
            number += 1
            text = text_of(record, text_key, f"{file}: row {number}")
            if text.strip():
                yield text


def _import_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("corpus parquet needs pyarrow: pip install 'efficientllm[data]'") from error
    return pyarrow, pyarrow.parquet


def _example(folder: Path) -> dict[str, Scalar]:
    pyarrow, parquet = _import_parquet()
    parquet.write_table(pyarrow.table({"text": example_documents()}), folder / "example.parquet")
    return {"path": str(folder / "example.parquet")}


ENTRY = CorpusEntry(title="Parquet: one column's rows", open=open_parquet, example=_example, endings=ENDINGS)
