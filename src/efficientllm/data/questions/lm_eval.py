"""A task of lm-evaluation-harness, by its name, or by that of a task file in a folder; needs the extra `evals`."""

from __future__ import annotations

from pathlib import Path

from efficientllm.data.questions._contract import HarnessTask, QuestionsEntry
from efficientllm.errors import DataError
from efficientllm.records.choice import Scalar


def open_task(task: str, folder: str = "", shots: int = -1) -> HarnessTask:
    """Name a task; whether the harness has it is known once it is loaded.

    Args:
        task: its name.
        folder: with task files (YAML) over local data: nothing else is looked at, and no network is needed.
        shots: examples before a question; below 0 as the task says.

    Raises:
        DataError: no such folder.
    """
    if folder and not Path(folder).expanduser().is_dir():
        raise DataError(f"questions lm_eval: no folder {folder!r}. Give the folder of the task's YAML file.")
    return HarnessTask(task=task, folder=folder and str(Path(folder).expanduser()), shots=shots)


def _example(folder: Path) -> dict[str, Scalar]:
    return {"task": "mine", "folder": str(folder)}


ENTRY = QuestionsEntry(title="lm-evaluation-harness: `task`, from `folder`", open=open_task, example=_example)
