"""The predicted memory of a training run beside what its parts really hold, as figures of the record."""

from __future__ import annotations

import importlib

from efficientllm.adapters._contract import Attached
from efficientllm.planner.predict import predict_for, predict_training
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.prediction import MemoryPrediction
from efficientllm.records.settings import PretrainSettings
from efficientllm.workloads._contract import Job


def load_compiler() -> None:
    """Load what torch loads at the first step of an optimiser, or where an operator asks whether it is compiled.

    A library of some 75 MB that comes late would be memory of the model, and only of those that had not loaded it.
    """
    importlib.import_module("torch._dynamo")


def tell_prediction(job: Job, vocab_tokens: int) -> None:
    """Tell the predicted parts and their sum, or why there are none."""
    settings = job.trial.settings
    assert isinstance(settings, PretrainSettings)
    _tell(job, predict_training(settings, vocab_tokens, job.device.kind))


def tell_adapted_prediction(job: Job, attached: Attached) -> None:
    """Tell the same of a fine-tuning method at work: of the very decoder that is trained."""
    settings, decoder = job.trial.settings, attached.decoder
    assert isinstance(settings, FinetuneSettings)
    held_bytes = attached.held_bytes()
    _tell(job, predict_for(decoder, decoder.shape.num_layers, settings, job.device.kind, held_bytes))


def _tell(job: Job, prediction: MemoryPrediction) -> None:
    for name, value in prediction.figures().items():
        job.recorder.figure(name, value)
    if prediction.why_not:
        job.recorder.absent("predicted_peak_bytes", prediction.why_not)


def tell_held(job: Job, name: str) -> None:
    """Tell what tensors hold on the device now, where its allocator counts that.

    `loaded_bytes`: the weights; `between_steps_bytes`: the optimiser's state as well.
    """
    held = job.device.allocated_bytes()
    if held is not None:
        job.recorder.figure(name, held)
