"""Where a trial leaves things in its study; the environment is in each name, so that none is ever stale.

artifacts/<trial>-<environment>/              what other trials take: a model
artifacts/<trial>-<environment>.checkpoints/  while it is not done: what its next attempt goes on from
"""

from __future__ import annotations

import shutil
from pathlib import Path

from efficientllm.records.environment import Environment
from efficientllm.records.trial import Trial
from efficientllm.store.folder import Study


def artifact_folder(study: Study, trial: Trial, environment: Environment) -> Path:
    """Return the folder of a trial's artifact; it is not made."""
    return study.artifact_folder(f"{trial.id}-{environment.id}")


def checkpoint_folder(study: Study, trial: Trial, environment: Environment) -> Path | None:
    """Return the folder of a trial's checkpoints, which is not made; None if it is to have none."""
    if not getattr(trial.settings, "checkpoint_every", 0):
        return None
    artifact = artifact_folder(study, trial, environment)
    return artifact.with_name(f"{artifact.name}.checkpoints")


def forget_checkpoints(study: Study, trial: Trial, environment: Environment) -> None:
    """Remove a trial's checkpoints once no further attempt will be made; before that they are kept."""
    folder = checkpoint_folder(study, trial, environment)
    if folder is not None and folder.exists() and study.done(trial.id, environment.id) is not None:
        shutil.rmtree(folder, ignore_errors=True)
