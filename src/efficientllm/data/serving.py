"""The text of an inference run, and the folder of the model whose tokens it is in."""

from __future__ import annotations

from pathlib import Path

import msgspec

from efficientllm.data.locate import locate_model
from efficientllm.data.prepare import Prepared, prepare
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
        UserError: no such model.
    """
    with_code = settings.engine.options.get("remote_code") is True
    folder = parent or (locate_model(settings.model, with_code=with_code) if settings.model else None)
    own = folder is not None and (bool(settings.model) or (folder / "tokenizer.json").is_file())
    if own:
        settings = msgspec.structs.replace(settings, tokenizer=str(folder), model="")
    return folder, prepare(settings, cache, None)
