"""Prepares a decoder's layers for training: compiled one by one, and what their backward pass computes again."""

from __future__ import annotations

from efficientllm.models.decoder import Decoder
from efficientllm.records.training_settings import TrainingSettings


def prepare_blocks(decoder: Decoder, settings: TrainingSettings) -> None:
    """Set what is recomputed, and compile if the settings say so.

    Each layer is compiled by itself: all have the same code, so that one compilation serves them all (seconds in place
    of a minute and more), and checkpointing and sharding, which go by layers too, stay outside of what is compiled.
    """
    decoder.checkpoints_blocks = settings.activation_checkpointing == "full"
    for number in range(decoder.shape.num_layers):
        block = decoder.block(number)
        block.mlp.recomputes = settings.activation_checkpointing == "selective"
        if settings.compile:
            block.compile(dynamic=False)
