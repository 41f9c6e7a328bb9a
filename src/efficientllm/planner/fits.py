"""Whether a run fits into a device, and which lever would make it fit, by the same counts."""

from __future__ import annotations

import math
from collections.abc import Iterator

from msgspec.structs import replace

from efficientllm.errors import EfficientLLMError
from efficientllm.planner.predict import predict_training
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.training_settings import TrainingSettings

#: What a context with its libraries' handles and kernels holds of a CUDA device, beside tensors: 0.4 to 0.6 GiB were
#: seen on H100 and H200. A processor's memory is counted whole: what others hold of it may be given back.
_CONTEXT_BYTES = {"cuda": 512 * 1024**2}

#: In the order in which they are put together.
_KINDS = ("micro_batch", "activation_checkpointing", "optimizer", "weights_dtype", "base_precision", "offload", "ranks")

#: Ranks that are tried.
_RANKS = (2, 4, 8)


def available_bytes(capacity_bytes: float, device: str) -> float:
    """Return what of a device's memory tensors can take."""
    return capacity_bytes - _CONTEXT_BYTES.get(device, 0)


def remedy(settings: TrainingSettings, vocab_tokens: int, device: str, capacity_bytes: float) -> str:
    """Return the first lever with which a run fits, as a recipe names it; the rows of a step stay as many.

    Levers are tried one by one, those that change the least first; where none is enough, the strongest of each kind is
    added to those before. Empty if all together are not enough.
    """
    room = available_bytes(capacity_bytes, device)
    for label, changed in _levers(settings, device):
        if _peak(changed, vocab_tokens, device) <= room:
            return label
    present, labels = settings, []
    for kind in _KINDS:
        options = [(label, changed) for label, changed in _levers(present, device) if label.startswith(kind)]
        if not options or _peak(options[-1][1], vocab_tokens, device) == math.inf:
            continue
        label, present = options[-1]  # the strongest of its kind
        labels.append(label)
        if _peak(present, vocab_tokens, device) <= room:
            return " ".join(labels)
    return ""


def _levers(settings: TrainingSettings, device: str) -> Iterator[tuple[str, TrainingSettings]]:
    """Yield the settings of each lever that is not in use, as a recipe names them.

    A processor has no memory but the host's, and its ranks share it.
    """
    rows = settings.rows_per_step
    size = settings.micro_batch
    while size % 2 == 0:
        size //= 2
        yield (
            f"micro_batch={size} global_batch={rows}",
            replace(settings, micro_batch=size, global_batch=rows, accumulation=1),
        )
    for value in ("selective", "full"):
        if settings.activation_checkpointing in ("none", "selective") and value != settings.activation_checkpointing:
            yield f"activation_checkpointing={value}", replace(settings, activation_checkpointing=value)
    if settings.optimizer.name == "adamw":
        yield "optimizer=adamw8bit", replace(settings, optimizer=Choice(name="adamw8bit"))
    if settings.weights_dtype == "float32":
        yield "weights_dtype=bfloat16 dtype=bfloat16", replace(settings, weights_dtype="bfloat16", dtype="bfloat16")
    tunes = isinstance(settings, FinetuneSettings)
    if (
        isinstance(settings, FinetuneSettings) and settings.base_precision is None
    ):  # of a method that cannot have it, the prediction is refused
        yield "base_precision=nf4", replace(settings, base_precision=Choice(name="nf4"))
    if device == "cpu":
        return
    if settings.ranks == 1:
        for value in {"none": ("optimizer", "weights"), "optimizer": ("weights",)}.get(settings.offload, ()):
            if tunes and value == "weights":
                continue
            yield f"offload={value}", replace(settings, offload=value)
    if settings.offload == "none" and not tunes:
        for ranks in _RANKS:
            if ranks > settings.ranks and rows % (ranks * settings.micro_batch) == 0:
                yield f"ranks={ranks}", replace(settings, ranks=ranks, global_batch=rows, accumulation=1)


def _peak(settings: TrainingSettings, vocab_tokens: int, device: str) -> float:
    """Return the predicted peak; of what cannot be had, infinity."""
    try:
        found = predict_training(settings, vocab_tokens, device)
    except EfficientLLMError:
        return math.inf
    return math.inf if found.why_not else found.peak_bytes
