"""The distinct texts and shapes of a plan: what is prepared once, before any trial runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from efficientllm.data.finetuning import prepare_finetuning
from efficientllm.data.prepare import prepare
from efficientllm.data.serving import prepare_serving
from efficientllm.models.shape import resolve_shape
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import InferenceSettings, PretrainSettings
from efficientllm.records.trial import Trial


def distinct_models(trials: Sequence[Trial]) -> list[ModelSettings]:
    """Return one settings struct for each distinct text and shape; of equal ones the largest budget."""
    found: dict[bytes, ModelSettings] = {}
    for trial in trials:
        settings = trial.settings
        if not isinstance(settings, ModelSettings):
            continue
        key = msgspec.json.encode(
            [
                settings.corpus,
                settings.tokenizer,
                settings.vocab_tokens,
                settings.size,
                settings.shape,
                settings.sequence_tokens,
                settings.heldout_tokens,
                settings.outside if isinstance(settings, PretrainSettings) else None,
                _of_instructions(settings) if isinstance(settings, FinetuneSettings) else None,
                settings.model if isinstance(settings, InferenceSettings) else "",
            ],
            order="deterministic",
        )
        known = found.get(key)
        if known is None or getattr(settings, "tokens", 0) > getattr(known, "tokens", 0):
            found[key] = settings
    return list(found.values())


def read_text(settings: ModelSettings, cache: Path) -> None:
    """Read and pack the text of a trial, and see whether a model can have its shape.

    Raises:
        UserError: text that cannot be used, or a shape that makes no model.
    """
    if isinstance(settings, FinetuneSettings):
        vocab_tokens = prepare_finetuning(settings, None, cache).corpus.tokenizer.vocab_tokens
        if settings.model:  # its folder says the shape
            return
    elif isinstance(settings, InferenceSettings) and settings.model:  # its folder says the shape
        prepare_serving(settings, None, cache)
        return
    else:
        budget = settings.tokens if isinstance(settings, PretrainSettings) else None
        vocab_tokens = prepare(settings, cache, budget).tokenizer.vocab_tokens
    resolve_shape(settings, vocab_tokens)


def _of_instructions(settings: FinetuneSettings) -> list[object]:
    names = ("instructions", "model", "chat_template", "heldout_samples", "judged_on", "evaluate_every", "tokens")
    return [getattr(settings, name) for name in names]
