"""The texts and questions that only judge, looked at before anything runs: a worker meets them after its windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from efficientllm.data.corpus import check_corpus
from efficientllm.data.questions_reader import check_questions
from efficientllm.errors import RecipeError, UserError
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings, PretrainSettings, Settings
from efficientllm.records.trial import Trial


def check_inputs(trials: Sequence[Trial], file: str) -> None:
    """Open each text and each set of questions of a plan once, and read the questions that would be asked.

    Args:
        trials: those that are not stored yet.
        file: of the recipe, which errors quote.

    Raises:
        RecipeError: one cannot be read, is empty, or holds something else, with file and key.
    """
    seen: set[tuple[str, str, str]] = set()
    for trial in trials:
        for key, choice, check in _inputs(trial.settings):
            place = (trial.stage, key, repr(choice))
            if place in seen:
                continue
            seen.add(place)
            try:
                check()
            except UserError as error:
                raise RecipeError(f"{file}: stages.{trial.stage}.{key}: {error}") from error


def _inputs(settings: Settings) -> Iterator[tuple[str, Choice, Callable[[], None]]]:
    """Yield key, choice and check of what judges beside the corpus."""
    if isinstance(settings, PretrainSettings) and settings.outside is not None:
        yield "outside", settings.outside, partial(check_corpus, settings.outside)
    if isinstance(settings, InferenceSettings):
        for name, corpus in settings.domains.items():
            yield f"domains.{name}", corpus, partial(check_corpus, corpus)
        for place, choice in enumerate(settings.questions):
            yield f"questions[{place}]", choice, partial(check_questions, choice, settings.asked)
