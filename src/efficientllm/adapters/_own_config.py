"""A user's `adapter_config.json` as a method: whatever layer of the peft library it asks for, as it asks for it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._peft import attach_peft
from efficientllm.adapters._targets import all_layers
from efficientllm.errors import UserError
from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card

#: Words that ask for more than adapters of dense layers, and what they ask for.
_MORE = {
    "modules_to_save": "layers trained whole",
    "trainable_token_indices": "token vectors",
    "target_parameters": "stacked parameters",
    "layer_replication": "repeated layers",
    "megatron_config": "Megatron's layers",
    "ensure_weight_tying": "tied embeddings",
}

#: First weights that are drawn from data or from a file.
_FROM_DATA = ("corda", "eva", "lora_ga", "loftq")


def entry_of(path: Path) -> MethodEntry:
    """Return the method of a configuration.

    Raises:
        UserError: the file is none.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. Give an adapter_config.json of the peft library.") from error
    if not isinstance(said, dict) or not isinstance(said.get("peft_type"), str):
        raise UserError(f"{path} says no peft_type. Give an adapter_config.json of the peft library.")

    def attach(decoder: Decoder) -> Attached:
        config = config_of(decoder, said, path)
        try:
            return attach_peft(decoder, config)
        except UserError as error:  # it names layers or ranks of another model
            model = said.get("base_model_name_or_path")
            whose = f" It was made for {model}." if model else ""
            raise UserError(f"{path}: {error}{whose}") from error

    card = Card(title=f"{said['peft_type']} of {path.name}", source="a configuration of the user's own")
    return MethodEntry(card=card, attach=attach, alike=False)


def config_of(decoder: Decoder, said: dict[str, Any], path: Path) -> Any:
    """Return the `peft` configuration of a file, for training.

    Raises:
        UserError: it asks for what is no adapter of dense layers.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    kind = said["peft_type"]
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise UserError(f"{path}: peft_type {kind!r} is unknown to peft {peft.__version__}.")
    prompts = issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], peft.PromptLearningConfig)
    if prompts or kind not in PEFT_TYPE_TO_TUNER_MAPPING:
        raise UserError(f"{path}: {kind} is no adapter of dense layers, which are all that is adapted here.")
    _refuse_more(decoder, said, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # words of a later version are left out; what matters is compared on loading
            config = peft.PeftConfig.from_peft_type(**{**said, "inference_mode": False, "task_type": None})
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    return config


def _refuse_more(decoder: Decoder, said: dict[str, Any], path: Path) -> None:
    for key, what in _MORE.items():
        if said.get(key):
            raise UserError(f"{path}: {key} asks for {what}, which is not possible here. {all_layers(decoder)}")
    if said.get("bias", "none") != "none":
        raise UserError(f"{path}: bias {said['bias']!r} asks for biases to be trained, which is not possible here.")
    init = str(said.get("init_lora_weights", "")).lower()
    if init.startswith(_FROM_DATA):
        raise UserError(f"{path}: init_lora_weights {init!r} needs data before training. Choose pissa, olora or true.")
    if init.startswith(("pissa", "olora")) and said.get("use_dora"):
        raise UserError(f"{path}: use_dora with init_lora_weights {init!r} cannot be saved for the model. Choose one.")
