"""The transformers library as users run it by default: eager, sdpa attention, a cache that grows with each token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from efficientllm.engines._contract import EngineEntry
from efficientllm.engines._transformers import TransformersEngine
from efficientllm.engines._transformers_load import load_library, load_model
from efficientllm.records.card import Card
from efficientllm.records.settings import InferenceSettings


class DynamicEngine(TransformersEngine):
    """Serves a model with a `DynamicCache`."""

    def _new_cache(self, max_tokens: int) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)


def open_transformers(
    settings: InferenceSettings,
    *,
    folder: Path | None,
    vocab_tokens: int,
    seed: int,
    device: str,
    threads: int,
    calibration_BT: torch.Tensor | None = None,
) -> DynamicEngine:
    """Load the folder, or make the random weights of engine native; see the contract."""
    loaded = load_model("transformers", settings, folder, vocab_tokens, seed, device)
    if threads:
        torch.set_num_threads(threads)
    return DynamicEngine(loaded, settings)


ENTRY = EngineEntry(
    card=Card(
        title="Transformers, eager with a growing cache",
        source="https://huggingface.co/docs/transformers/kv_cache",
        note="the library's defaults; option remote_code runs code that came with a checkpoint",
    ),
    open=open_transformers,
    load_library=load_library,
)
