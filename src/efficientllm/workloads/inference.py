"""Inference: prefill, decode and whole requests, each in windows of its own over a grid, then held-out quality.

Before anything is timed the logits can be held to float32 arithmetic (`arithmetic`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from torch import Tensor

from efficientllm import registry
from efficientllm.data.prepare import Prepared
from efficientllm.data.serving import prepare_serving
from efficientllm.engines._contract import Engine, EngineEntry
from efficientllm.models.calibrate import calibration_rows
from efficientllm.precision.pack import load_precision
from efficientllm.records.measurement import ARITHMETIC, ModelFacts
from efficientllm.records.settings import InferenceSettings
from efficientllm.workloads import _inference_windows, arithmetic, judging
from efficientllm.workloads._contract import Job, WorkloadEntry
from efficientllm.workloads.cards import copy_cards
from efficientllm.workloads.memory import load_compiler

#: name -> what measures such a window; its points are the settings of that name.
_MEASURE: dict[str, Callable[..., None]] = {
    "arithmetic": arithmetic.hold,
    "prefill": _inference_windows.prefill,
    "decode": _inference_windows.decode,
    "generate": _inference_windows.generate,
}


def run(job: Job) -> None:
    """Measure a checkpoint, of a stage or the settings' `model`, or random weights where there is none.

    Windows: one `arithmetic`, `prefill`, `decode` or `generate` for each point of their grids, then `quality`, which
    is absent with its reason for random weights. A point that does not fit is that point's outcome, and the next one is
    measured.
    """
    settings, recorder = job.trial.settings, job.recorder
    assert isinstance(settings, InferenceSettings)
    with recorder.phase("data"):
        folder, prepared = prepare_serving(settings, job.parent_artifact, job.cache)
    recorder.data(prepared.facts)
    for name, value in prepared.sanity.items():
        recorder.figure(f"{name}_bits_per_byte", value)
    registry.load("engine", settings.engine.address()).load_library()
    load_compiler()
    recorder.baseline_memory()
    with recorder.phase("load"):
        try:
            engine = _open_engine(job, settings, folder, prepared)
        except Exception as error:
            if job.device.is_out_of_memory(error) and judging.judge_streamed(job, prepared, error):
                return
            raise
    copy_cards(recorder, settings)
    recorder.model(_with_arithmetic(engine.facts(), settings))
    points = [(name, grid) for name in _MEASURE for grid in getattr(settings, name)]
    for i, (name, grid) in enumerate(points):
        recorder.progress(i, len(points), f"{name} batch {grid.batch}, {grid.tokens} tokens")
        with recorder.attempt(name, grid.coordinates()):
            _MEASURE[name](job, engine, prepared, grid)
    engine.begin(1, 1)  # quality needs no room of the last point's, which may have been the largest
    judging.judge(job, engine, prepared)
    engine.close()


def _open_engine(job: Job, settings: InferenceSettings, folder: Path | None, prepared: Prepared) -> Engine:
    entry: EngineEntry = registry.load("engine", settings.engine.address())
    return entry.open(
        settings,
        folder=folder,
        vocab_tokens=prepared.tokenizer.vocab_tokens,
        seed=job.trial.seed,
        device=str(job.device.torch_device()),
        threads=job.threads,
        calibration_BT=_calibration(job, settings, prepared),
    )


def _calibration(job: Job, settings: InferenceSettings, prepared: Prepared) -> Tensor | None:
    """Return the training text that a number format is fitted to, None where it is to none."""
    if settings.precision is None:
        return None
    rows_BT = calibration_rows(settings.precision, prepared.train, settings.sequence_tokens, job.trial.seed)
    if rows_BT is not None:
        job.recorder.figure("calibration_tokens", rows_BT.numel())
    return rows_BT


def _with_arithmetic(facts: ModelFacts, settings: InferenceSettings) -> ModelFacts:
    """Say in which number format the model computes, where its weights' decides it: MFU finds its ceiling by that."""
    dtype = load_precision(settings.precision).dtype if settings.precision is not None else ""
    if not dtype or ARITHMETIC in facts.implementations:
        return facts
    return msgspec.structs.replace(facts, implementations={**facts.implementations, ARITHMETIC: dtype})


ENTRY = WorkloadEntry(title="Prefill, decode and whole requests over a grid, then quality", run=run)
