"""The distinct texts and shapes of a plan: what is prepared once, before any trial runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def read_text(settings: ModelSettings, cache: Path) -> list[str]:
    """Read and pack the text of a trial, and see whether a model can have its shape.

    Returns:
        What its user should know of it, a line each: samples that did not fit.

    Raises:
        UserError: text that cannot be used, or a shape that makes no model.
    """
    notes: list[str] = []
    if isinstance(settings, FinetuneSettings):
        text = prepare_finetuning(settings, None, cache)
        vocab_tokens, notes = text.corpus.tokenizer.vocab_tokens, _unfit(settings, text.told.figures)
        if settings.model:  # its folder says the shape
            return notes
    elif isinstance(settings, InferenceSettings) and settings.model:  # its folder says the shape
        prepare_serving(settings, None, cache)
        return notes
    else:
        budget = settings.tokens if isinstance(settings, PretrainSettings) else None
        vocab_tokens = prepare(settings, cache, budget).tokenizer.vocab_tokens
    resolve_shape(settings, vocab_tokens)
    return notes


def _unfit(settings: FinetuneSettings, figures: Mapping[str, float]) -> list[str]:
    """Say how many samples were longer than a row."""
    found = []
    for prefix, kind in (("", "training"), ("heldout_", "held-out")):
        kept, cut, dropped = (
            int(figures[f"{prefix}num_{what}"]) for what in ("samples", "truncated_samples", "dropped_samples")
        )
        if cut or dropped:
            found.append(
                f"instructions {settings.instructions.label()}: of {kept + dropped} {kind} samples {cut} are cut at "
                f"{settings.sequence_tokens} tokens, {dropped} left out, whose prompt leaves no room for a response"
            )
    return found


def _of_instructions(settings: FinetuneSettings) -> list[object]:
    names = ("instructions", "model", "chat_template", "heldout_samples", "judged_on", "evaluate_every", "tokens")
    return [getattr(settings, name) for name in names]
