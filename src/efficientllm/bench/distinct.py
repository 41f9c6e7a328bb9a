"""The distinct texts and shapes of a plan: what is prepared once, before any trial runs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import PretrainSettings
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
            ],
            order="deterministic",
        )
        known = found.get(key)
        if known is None or getattr(settings, "tokens", 0) > getattr(known, "tokens", 0):
            found[key] = settings
    return list(found.values())
