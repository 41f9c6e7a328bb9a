"""The tiny decoders on which methods are checked, by their names, for the tests of methods."""

import torch

from efficientllm import catalog
from efficientllm.adapters import _checks
from efficientllm.adapters._checks import TOKENS, VOCAB, distance, logits, train
from efficientllm.adapters.attach import attach
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.model_settings import ModelSettings

__all__ = ["ADAPTERS", "METHODS", "MODELS", "TOKENS", "VOCAB", "attached", "decoder_of", "distance", "logits", "train"]

METHODS = catalog.names("method")
#: Those that train the decoder's own weights.
WHOLE = ("freeze", "full")
ADAPTERS = [name for name in METHODS if name not in WHOLE]
#: Those that every method is checked on, and one without biases.
MODELS = {**_checks.MODELS, "llama": ModelSettings(shape=_checks.SHAPE)}


def decoder_of(model="qwen", dtype=torch.float32):
    """Return a decoder, the same each time, whose biases are not zero."""
    return _checks.decoder_of(MODELS[model], dtype)


def attached(decoder, name, seed=3, **options):
    """Return a method at work, by default of a rank that fits the tiny models."""
    if not options and name not in (*WHOLE, "ia3"):
        options = {"rank": 8}
    return attach(decoder, FinetuneSettings(method=Choice(name=name, options=options)), seed)
