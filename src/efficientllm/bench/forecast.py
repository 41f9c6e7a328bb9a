"""What the trials of a plan will need, known before anything runs, and which of them are not worth trying.

Parts say what they keep, which takes torch; the runner has none. So one short process is asked for all of a plan at
once, as for refusals, and what it said is kept in the cache, by the code that said it.

python -m efficientllm.bench.forecast < QUESTIONS       (a JSON list; the answers are one JSON list)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from efficientllm.data.cache import key_of, read_record, write_record
from efficientllm.records.environment import DeviceInfo, Environment
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.measurement import Measurement
from efficientllm.records.prediction import MemoryPrediction
from efficientllm.records.settings import PretrainSettings
from efficientllm.records.trial import Trial
from efficientllm.records.window import Caution
from efficientllm.units import bytes_text

#: A prediction is held to a few percent; what exceeds the device by more than this is not tried.
_MARGIN = 1.05

#: Marks a record that says what was predicted and not what was measured.
_NOT_TRIED = Caution(
    code="predicted", text="not tried: by its shapes it does not fit; `run … --try-anyway` measures it all the same"
)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One run, and the device that it is meant for."""

    settings: PretrainSettings | FinetuneSettings
    device: str
    capacity_bytes: int


def forecasts(
    trials: Sequence[Trial], environments: Mapping[str, Environment], info: DeviceInfo, cache: Path
) -> dict[str, MemoryPrediction]:
    """Return trial -> prediction, for the trials that train.

    Args:
        trials: of a plan.
        environments: of each trial, by its id: its code is what the answer rests on.
        info: of the device.
        cache: folder of the cache.
    """
    questions: dict[str, Question] = {}
    keys: dict[str, str] = {}
    for trial in trials:
        if isinstance(trial.settings, PretrainSettings | FinetuneSettings):
            question = Question(settings=trial.settings, device=info.kind, capacity_bytes=info.capacity_bytes)
            key = key_of(environments[trial.id].id, msgspec.to_builtins(question))
            keys[trial.id], questions[key] = key, question
    files = {key: cache / "forecasts" / f"{key}.json" for key in questions}
    told = {key: found for key, file in files.items() if (found := read_record(file, MemoryPrediction)) is not None}
    missing = [key for key in questions if key not in told]
    for key, prediction in zip(missing, _ask([questions[key] for key in missing]), strict=True):
        if not prediction.why_not:
            write_record(files[key], prediction)
        told[key] = prediction
    return {trial: told[key] for trial, key in keys.items()}


class Outlook:
    """What is known of a plan's trials before they run.

    Args:
        info: of the device.
        cache: folder of the cache.
        tries_anyway: whether what will not fit is tried all the same.
    """

    def __init__(self, info: DeviceInfo, cache: Path, *, tries_anyway: bool) -> None:
        self._info, self._cache, self._tries_anyway = info, cache, tries_anyway
        self._known: dict[str, MemoryPrediction] = {}

    def look(self, trials: Sequence[Trial], environments: Mapping[str, Environment]) -> dict[str, MemoryPrediction]:
        """Return trial -> prediction, as `forecasts`, and keep them."""
        self._known |= forecasts(trials, environments, self._info, self._cache)
        return self._known

    def reason(self, trial: Trial) -> str:
        """Return why a trial will not fit and is not tried, or an empty string."""
        prediction = self._known.get(trial.id)
        return "" if prediction is None or self._tries_anyway else too_large(prediction, self._info)

    def record(self, unmeasured: Measurement) -> Measurement:
        """Return the record of a run that was not tried, with its prediction, told from one that was tried."""
        figures = {**unmeasured.figures, **self._known[unmeasured.trial.id].figures()}
        return msgspec.structs.replace(unmeasured, cautions=(*unmeasured.cautions, _NOT_TRIED), figures=figures)

    def takes(self, stored: Measurement | None) -> Measurement | None:
        """Return an earlier record if it counts as done: one that was not tried does not where all are."""
        return None if stored is not None and self._tries_anyway and not_tried(stored) else stored


def too_large(prediction: MemoryPrediction, info: DeviceInfo) -> str:
    """Return why a run will not fit, or an empty string if it may: a clear margin is asked for."""
    capacity_bytes = info.capacity_bytes
    if prediction.why_not or not capacity_bytes or prediction.peak_bytes <= _MARGIN * capacity_bytes:
        return ""
    parts = ", ".join(f"{name} {bytes_text(size)}" for name, size in prediction.parts().items() if size)
    least = "at least " if prediction.at_least else ""
    needs = f"predicted: needs {least}{bytes_text(prediction.peak_bytes)} of {bytes_text(capacity_bytes)} ({parts})"
    if prediction.standing_bytes > capacity_bytes:
        needs += f"; weights, gradients and the optimiser's state alone take {bytes_text(prediction.standing_bytes)}"
    fits = f"it would fit with {prediction.remedy}" if prediction.remedy else "nothing that can be set makes it fit"
    return f"{needs}; {fits}"


def not_tried(measurement: Measurement) -> tuple[Caution, ...]:
    """Return the caution of a record that holds a prediction or rests on one that does; empty if it has none."""
    return tuple(caution for caution in measurement.cautions if caution.code == _NOT_TRIED.code)


def _ask(questions: Sequence[Question]) -> list[MemoryPrediction]:
    if not questions:
        return []
    command = [sys.executable, "-m", "efficientllm.bench.forecast"]
    done = subprocess.run(command, input=msgspec.json.encode(questions), capture_output=True, check=False)
    try:
        return msgspec.json.decode(done.stdout, type=list[MemoryPrediction])
    except msgspec.DecodeError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = f"the process that predicts ended with {done.returncode}: {said[-1] if said else 'it said nothing'}"
        return [MemoryPrediction(why_not=why)] * len(questions)


def _answer(question: Question) -> MemoryPrediction:
    from efficientllm.data.tokenizer import existing_tokenizer
    from efficientllm.planner.fits import available_bytes, remedy
    from efficientllm.planner.predict import predict_training

    settings, device = question.settings, question.device
    try:
        trained = settings.tokenizer == "bpe"
        vocab_tokens = settings.vocab_tokens if trained else existing_tokenizer(settings.tokenizer).vocab_tokens
        found = predict_training(settings, vocab_tokens, device)
        if found.why_not or found.peak_bytes <= available_bytes(question.capacity_bytes, device):
            return found
        return msgspec.structs.replace(found, remedy=remedy(settings, vocab_tokens, device, question.capacity_bytes))
    except Exception as error:  # noqa: BLE001 - a user's own part may raise anything; its trial will say how it ended
        return MemoryPrediction(why_not=f"{type(error).__name__}: {error}")


def main() -> None:
    """Read questions, write the answers."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what a user's own part prints is no answer
        questions = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Question])
        out.write(msgspec.json.encode([_answer(question) for question in questions]))


if __name__ == "__main__":
    main()
