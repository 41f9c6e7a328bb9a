"""All text of a fine-tuning run: the corpus it may forget, the tokenizer, and the instructions in its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from efficientllm.data.chat import template_of
from efficientllm.data.locate import locate_model
from efficientllm.data.prepare import Prepared, prepare
from efficientllm.data.samples import Encoded, PreparedInstructions, prepare_instructions
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.measurement import DataFacts


@dataclass(frozen=True)
class FinetuningText:
    """What a fine-tuning run reads.

    Attributes:
        folder: of the model that is fine-tuned; None for random weights, and while its stage has yet to run.
        corpus: tokenizer and held-out text.
        told: instructions that are learned, and those that judge.
        looked_at: further held-out samples, for looks while training goes on; empty where there are none.
    """

    folder: Path | None
    corpus: Prepared
    told: PreparedInstructions
    looked_at: tuple[Encoded, ...]

    @property
    def facts(self) -> DataFacts:
        """The identity of all of it."""
        details = {**self.corpus.facts.details, **self.told.details}
        return msgspec.structs.replace(self.corpus.facts, details=details)


def prepare_finetuning(settings: FinetuneSettings, parent: Path | None, cache: Path) -> FinetuningText:
    """Read and pack all text, from the cache where it is there.

    Args:
        settings: of the run.
        parent: folder of the model that another stage left.
        cache: folder of the cache.

    Raises:
        DataError: text that cannot be used.
        UserError: no such model.
    """
    folder = parent or (locate_model(settings.model) if settings.model else None)
    template = template_of(folder, settings.chat_template)
    if settings.model:
        settings = msgspec.structs.replace(settings, tokenizer=str(folder), model="")
    corpus = prepare(settings, cache, None)
    told = prepare_instructions(settings, corpus.tokenizer, template, cache)
    looked_at: tuple[Encoded, ...] = ()
    if settings.evaluate_every:
        other = msgspec.structs.replace(settings, judged_on="valid" if settings.judged_on == "test" else "test")
        looked_at = prepare_instructions(other, corpus.tokenizer, template, cache).heldout
    return FinetuningText(folder, corpus, told, looked_at)
