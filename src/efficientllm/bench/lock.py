"""One run of a study at a time: two would measure each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from efficientllm.errors import ResultsError


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Hold a study's folder; a lock whose process is gone (it was killed) is taken over.

    Raises:
        ResultsError: another process runs this study.
    """
    file = folder / "running.pid"
    folder.mkdir(parents=True, exist_ok=True)
    holder = _holder(file)
    if holder is not None:
        raise ResultsError(f"{folder}: process {holder} is running this study. Wait for it, or end it.")
    mine = f"{os.getpid()} {psutil.Process().create_time()}"
    file.write_text(mine, encoding="utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _holder(file: Path) -> int | None:
    """Return the process that holds the lock and still lives; process ids are reused, so its start counts too."""
    try:
        pid, _, started = file.read_text(encoding="utf-8").partition(" ")
        process = psutil.Process(int(pid))
        return process.pid if str(process.create_time()) == started else None
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
