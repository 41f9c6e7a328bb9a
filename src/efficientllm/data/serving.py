"""The text of an inference run, and the folder of the model whose tokens it is in."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from efficientllm.data.locate import locate_model
from efficientllm.data.prepare import Prepared, prepare
from efficientllm.errors import UserError
from efficientllm.records.settings import InferenceSettings


def prepare_serving(settings: InferenceSettings, parent: Path | None, cache: Path) -> tuple[Path | None, Prepared]:
    """Return the folder of the model that is served, None for random weights, and its text.

    A model's own tokenizer is that of its text; random weights, and a folder without one, have that of the settings.

    Args:
        settings: of the run.
        parent: folder of the model that another stage left.
        cache: folder of the cache.

    Raises:
        DataError: text or a tokenizer that cannot be used.
        UserError: no such model, or one whose tokenizer has tokens that it does not know.
    """
    with_code = settings.engine.options.get("remote_code") is True
    folder = parent or (locate_model(settings.model, with_code=with_code) if settings.model else None)
    own = folder is not None and (bool(settings.model) or (folder / "tokenizer.json").is_file())
    if own:
        settings = msgspec.structs.replace(settings, tokenizer=str(folder), model="")
    prepared = prepare(settings, cache, None)
    if folder is not None:
        _check_vocabulary(folder, prepared.tokenizer.vocab_tokens)
    return folder, prepared


def _check_vocabulary(folder: Path, vocab_tokens: int) -> None:
    try:
        rows = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    except (OSError, ValueError, AttributeError):  # who loads the model says what is wrong with it
        return
    if isinstance(rows, int) and rows < vocab_tokens:
        raise UserError(
            f"{folder}: the tokenizer has {vocab_tokens} tokens, but the model only {rows}. "
            "They do not belong together."
        )
