"""The counts and the work of a model of the transformers library: those of engine native, where ours can be that model.

Of another architecture only what its tensors say is counted; work is tokens and rows alone then, so that MFU and MBU
are absent instead of guessed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from efficientllm.engines._transformers_load import Loaded
from efficientllm.engines._transformers_quantised import held_tensors
from efficientllm.models import costs
from efficientllm.models.linear import stored_bytes
from efficientllm.records.measurement import ModelFacts
from efficientllm.records.window import Work


def held_bytes(model: Any) -> int:
    """Return the bytes of a model's weights, as they are held, shared ones once."""
    held = {tensor.data_ptr(): tensor.nbytes for tensor in held_tensors(model)}
    return sum(held.values())


def facts(loaded: Loaded, sequence_tokens: int, implementations: dict[str, str]) -> ModelFacts:
    """Return the model's counts; `sequence_tokens` is the length of a training row."""
    outline = loaded.outline
    if outline is None:
        counted = _counted(loaded.model if loaded.unpacked is None else loaded.unpacked)
    else:
        counted = costs.facts(outline, outline.dtype.itemsize, sequence_tokens)
    return msgspec.structs.replace(
        counted,
        weight_bytes=held_bytes(loaded.model),
        disk_bytes=loaded.disk_bytes,
        implementations={**implementations, **({"weights": loaded.weights} if loaded.weights else {})},
    )


def prefill_work(loaded: Loaded, batch: int, tokens: int) -> Work:
    """Return the work of one prefill of an empty batch."""
    if loaded.outline is None:
        return Work(tokens=batch * tokens, samples=batch)
    return _as_held(costs.prefill_work(loaded.outline, batch, tokens), loaded)


def decode_work(loaded: Loaded, batch: int, context: int) -> Work:
    """Return the work of one decode after `context` tokens."""
    if loaded.outline is None:
        return Work(tokens=batch, samples=batch)
    return _as_held(costs.decode_work(loaded.outline, batch, context), loaded)


def _as_held(work: Work, loaded: Loaded) -> Work:
    """Return the work with the weights' bytes as they are held: those of a quantised folder are fewer."""
    assert loaded.outline is not None
    more = held_bytes(loaded.model) - stored_bytes(loaded.outline)
    return msgspec.structs.replace(
        work, moved_bytes=work.moved_bytes + more, working_set_bytes=work.working_set_bytes + more
    )


def _counted(model: Any) -> ModelFacts:
    """Return what the tensors say; of experts those count as active that the config lets a token use."""
    named = list(model.named_parameters())  # shared ones once
    total = sum(parameter.numel() for _, parameter in named)
    config = model.config.get_text_config()
    experts = next(
        (n for key in ("num_local_experts", "num_experts", "n_routed_experts") if (n := getattr(config, key, 0))), 0
    )
    idle = sum(parameter.numel() for name, parameter in named if ".experts." in name) if experts else 0
    used = getattr(config, "num_experts_per_tok", experts) or experts
    tables = {id(part.weight): part.weight.numel() for part in _tables(model)}
    return ModelFacts(
        parameters_total=total,
        parameters_active=total - round(idle * (1 - used / experts)) if experts else total,
        parameters_embedding=sum(tables.values()),
        weight_bytes=0,
    )


def _tables(model: Any) -> list[Any]:
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    return [part for part in parts if getattr(part, "weight", None) is not None]
