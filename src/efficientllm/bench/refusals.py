"""Which trials of a plan no model can be built for, known before anything runs.

The parts themselves say so (`supports`), which takes torch; the runner has none. So one short process is asked for all
distinct models of a plan at once, and what it said is kept in the cache, by the code that said it.

python -m efficientllm.bench.refusals < SETTINGS       (a JSON list; answers go out one a line)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from efficientllm.data.cache import key_of, read_record, write_record
from efficientllm.errors import UserError
from efficientllm.records.environment import Environment
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.trial import Trial

#: Text, budget and judging decide nothing about whether parts go together.
_NOT_OF_THE_MODEL = ("corpus", "tokenizer", "heldout_tokens")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the process says of one model: `reason` if it is refused, `error` if it is wrong use."""

    reason: str = ""
    error: str = ""


def refusals(trials: Sequence[Trial], environments: Mapping[str, Environment], cache: Path) -> dict[str, str]:
    """Return trial -> reason for the trials whose model cannot be built.

    A trial that takes an artifact is not asked for: its model was built by its parent.

    Args:
        trials: those that are not stored yet.
        environments: of each trial, by its id: its code is what the answer rests on.
        cache: folder of the cache.

    Raises:
        UserError: a part has no such option, a shape makes no model …
    """
    models: dict[str, ModelSettings] = {}
    keys: dict[str, str] = {}
    for trial in trials:
        if isinstance(trial.settings, ModelSettings) and not trial.parent:
            model = _model(trial.settings)
            key = key_of(environments[trial.id].id, msgspec.to_builtins(model))
            keys[trial.id], models[key] = key, model
    files = {key: cache / "refusals" / f"{key}.json" for key in models}
    told = {key: answer.reason for key, file in files.items() if (answer := read_record(file, Answer)) is not None}
    missing = [key for key in models if key not in told]
    for key, reason in zip(missing, _ask([models[key] for key in missing]), strict=True):
        write_record(files[key], Answer(reason=reason))
        told[key] = reason
    return {trial: told[key] for trial, key in keys.items() if told[key]}


def _model(settings: ModelSettings) -> ModelSettings:
    names = [name for name in ModelSettings.__struct_fields__ if name not in _NOT_OF_THE_MODEL]
    return ModelSettings(**{name: getattr(settings, name) for name in names})


def _ask(models: Sequence[ModelSettings]) -> list[str]:
    """Ask a process; where it dies over a model, that trial will say how, and another process goes on behind it."""
    reasons: list[str] = []
    while len(reasons) < len(models):
        left = models[len(reasons) :]
        command = [sys.executable, "-m", "efficientllm.bench.refusals"]
        done = subprocess.run(command, input=msgspec.json.encode(left), capture_output=True, check=False)
        answers = [msgspec.json.decode(line, type=Answer) for line in done.stdout.splitlines()]
        if not answers:  # it did not come so far as to begin: neither will a worker, whose record says why
            return reasons + [""] * len(left)
        for answer in answers[1:]:
            if answer.error:
                raise UserError(answer.error)
            reasons.append(answer.reason)
        if len(answers) - 1 < len(left):
            reasons.append("")
    return reasons


def main() -> None:
    """Read settings, say of each whether its parts go together; the first line says that it has begun."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)  # what a user's own part prints is no answer
        models = msgspec.json.decode(sys.stdin.buffer.read(), type=list[ModelSettings])
        from efficientllm.models.build import unsupported_reason

        out.write(msgspec.json.encode(Answer()) + b"\n")
        for model in models:
            try:
                answer = Answer(reason=unsupported_reason(model, model.vocab_tokens))
            except UserError as error:
                answer = Answer(error=str(error))
            except Exception:  # noqa: BLE001 - a user's own part may raise anything; its trial will say how it ended
                answer = Answer()
            out.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
