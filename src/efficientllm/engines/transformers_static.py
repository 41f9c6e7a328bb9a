"""The transformers library at its fastest: a cache of fixed size, and a compiled decode step, captured on CUDA.

On CUDA the compiled step is recorded in a graph of our own and not by the compiler's mode `reduce-overhead`: either
launches once a step, but a graph of our own goes with its batch, whereas the compiler keeps one for each cache that a
grid ever made. Models with a sliding window count its tokens on the host: their step is compiled, not captured.

Prefill and `generate` are not compiled, since each length of prompts would be compiled anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import Unsupported as DynamoUnsupported

from efficientllm.engines._capture import CapturedStep
from efficientllm.engines._compiling import compile_each_window
from efficientllm.engines._contract import EngineEntry
from efficientllm.engines._transformers import TransformersEngine
from efficientllm.engines._transformers_cache import empty
from efficientllm.engines._transformers_load import Loaded, load_library, load_model
from efficientllm.errors import Unsupported
from efficientllm.records.card import Card
from efficientllm.records.settings import InferenceSettings


class StaticEngine(TransformersEngine):
    """Serves a model with a `StaticCache`."""

    def __init__(self, loaded: Loaded, settings: InferenceSettings) -> None:
        super().__init__(loaded, settings)
        self._slides = any(layer.is_sliding for layer in self._new_cache(1).layers)
        self._one_token: Callable[[Tensor, Any], Tensor] = self._plain_step
        self._captured: CapturedStep | None = None
        if settings.engine.options.get("compiled", True):
            compile_each_window()
            # a window counts on the host, and a number that changes with each step may not be compiled in
            self._one_token = torch.compile(
                self._plain_step, fullgraph=not self._slides, dynamic=None if self._slides else False
            )

    def _new_cache(self, max_tokens: int) -> Any:
        from transformers import StaticCache

        try:
            return StaticCache(config=self._model.config, max_cache_len=max_tokens)
        except (ValueError, KeyError, TypeError) as error:
            name = self._model.config.model_type
            raise Unsupported(f"transformers has no static cache for a {name} model: {error}") from error

    def _empty_cache(self) -> None:
        empty(self._cache)

    def _give_up_batch(self) -> None:
        self._captured = None  # before the cache that it writes to
        super()._give_up_batch()

    def _implementations(self) -> dict[str, str]:
        step = "eager" if self._one_token == self._plain_step else "compiled"
        captured = ", captured in a graph" if self._device.type == "cuda" and not self._slides else ""
        return {**super()._implementations(), "decode": step + captured}

    def _plain_step(self, tokens_B: Tensor, cache: Any) -> Tensor:
        logits_BV: Tensor = self._model(tokens_B[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
        return logits_BV

    def _step(self, tokens_B: Tensor) -> Tensor:
        try:
            return self._fixed_step(tokens_B)
        except DynamoUnsupported as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Unsupported(
                f"the decode step of this {self._model.config.model_type} model cannot be compiled: {first}. "
                "Engine transformers serves it eager, as does the engine's option compiled: false"
            ) from error

    def _fixed_step(self, tokens_B: Tensor) -> Tensor:
        if self._pads_B is not None or self._length == 0:  # the first tokens make the cache's tensors
            return super()._step(tokens_B)
        if self._device.type != "cuda" or self._slides:
            return self._one_token(tokens_B.contiguous(), self._cache)
        if self._captured is None:
            self._captured = self._capture()
        return self._captured(tokens_B)

    def _capture(self) -> CapturedStep:
        length, cache = self._length, self._cache

        def restore() -> None:
            for layer in cache.layers:
                layer.cumulative_length.fill_(length)

        return CapturedStep(lambda tokens_B: self._one_token(tokens_B, cache), restore, self._batch, self._device)


def open_transformers_static(
    settings: InferenceSettings,
    *,
    folder: Path | None,
    vocab_tokens: int,
    seed: int,
    device: str,
    threads: int,
    calibration_BT: Tensor | None = None,
) -> StaticEngine:
    """Load the folder, or make the random weights of engine native; see the contract."""
    loaded = load_model("transformers_static", settings, folder, vocab_tokens, seed, device)
    if threads:
        torch.set_num_threads(threads)
    return StaticEngine(loaded, settings)


ENTRY = EngineEntry(
    card=Card(
        title="Transformers, static cache and compiled decode",
        source="https://huggingface.co/docs/transformers/llm_optims",
        improves=("latency", "throughput"),
        costs=("memory",),
        note="against engine transformers; the whole room of a batch is held from its start",
    ),
    open=open_transformers_static,
    load_library=load_library,
)
