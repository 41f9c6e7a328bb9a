"""The quality of a model that is served: on texts, against a reference, and by questions.

A model that does not fit the device has no speed here, yet it has a quality: it passes over the device layer by layer.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from efficientllm.data.locate import locate_model
from efficientllm.data.prepare import Prepared
from efficientllm.engines._contract import Engine
from efficientllm.errors import Unsupported, UserError
from efficientllm.precision.pack import load_precision
from efficientllm.records.choice import Choice
from efficientllm.records.grid import KINDS
from efficientllm.records.settings import InferenceSettings
from efficientllm.workloads._contract import Job
from efficientllm.workloads.questions import Examiner, window_names
from efficientllm.workloads.teller import DecoderTeller, EngineTeller, load_reference, reference_choice
from efficientllm.workloads.texts import TextJudge

_RANDOM = "random weights: there is no quality to judge"


def judge(job: Job, engine: Engine, prepared: Prepared) -> None:
    """Judge what an engine serves: windows `quality`, `quality_NAME` of each domain, `task_NAME` of each questions.

    Random weights have no quality: the window `quality` says so.
    """
    settings, recorder, folder = _settings(job), job.recorder, model_folder(job)
    if folder is None:
        recorder.figure("random_weights", 1)
        work = engine.prefill_work(1, settings.sequence_tokens)
        with recorder.window("quality", work=work, adaptive=False) as window:
            window.absent("heldout_bits_per_byte", _RANDOM)
        return
    reference, why = _reference(job, folder)
    TextJudge(EngineTeller(engine), reference, why, settings, recorder).judge(prepared)
    del reference  # questions need room for a cache
    Examiner(engine, prepared.tokenizer, folder, settings, recorder).ask()


def judge_streamed(job: Job, prepared: Prepared, error: BaseException) -> bool:
    """Judge a model that did not fit the device, layer by layer from the host's memory; its other windows are `oom`.

    Args:
        job: the trial.
        prepared: its text.
        error: that memory ran out.

    Returns:
        Whether it could be done: for a model of ours, in a format that needs no calibration.
    """
    settings, recorder, folder = _settings(job), job.recorder, model_folder(job)
    entry = load_precision(settings.precision) if settings.precision is not None else None
    calibrated = entry is not None and entry.needs_inputs
    if folder is None or settings.engine.name != "native" or settings.cache is not None or calibrated:
        return False
    traceback.clear_frames(error.__traceback__)  # what failed still holds its tensors
    job.device.empty_cache()
    for kind in KINDS:
        for grid in getattr(settings, kind):
            with recorder.attempt(kind, grid.coordinates()):
                raise error
    recorder.caution("quality_only", "the model did not fit the device: judged layer by layer from the host's memory")
    recorder.figure("quality_only", 1)
    teller = load_reference(folder, settings.precision, settings, job.device, streamed=True)
    why = "the model itself passes over the device layer by layer: there is no room for a second"
    TextJudge(teller, None, why, settings, recorder).judge(prepared)
    for name in window_names(settings.questions):
        with recorder.attempt(name, {}):
            raise Unsupported("quality only: a model that passes over the device layer by layer answers no questions")
    return True


def model_folder(job: Job) -> Path | None:
    """Return the folder of the model that a trial serves, None for random weights."""
    settings = _settings(job)
    return job.parent_artifact or (locate_model(settings.model) if settings.model else None)


def _reference(job: Job, folder: Path) -> tuple[DecoderTeller | None, str]:
    """Return what the trial is compared with, or why it is compared with nothing."""
    settings = _settings(job)
    choice, why = reference_choice(settings)
    if why:
        return None, why
    try:
        with job.recorder.phase("load_reference"):
            reference = _loaded(folder, choice, settings, job)
    except (Unsupported, UserError) as error:  # a folder of a kind that our decoder cannot be, or its weights packed
        return None, f"no reference: {error}"
    if reference.streamed:
        job.recorder.caution(
            "reference_streamed", f"{reference.name}, the reference, passed over the device layer by layer"
        )
    return reference, ""


def _loaded(folder: Path, choice: Choice | None, settings: InferenceSettings, job: Job) -> DecoderTeller:
    """Load a reference; streamed, if the device has less room than it says."""
    try:
        return load_reference(folder, choice, settings, job.device)
    except Exception as error:
        if not job.device.is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
    job.device.empty_cache()
    return load_reference(folder, choice, settings, job.device, streamed=True)


def _settings(job: Job) -> InferenceSettings:
    settings = job.trial.settings
    assert isinstance(settings, InferenceSettings)
    return settings
