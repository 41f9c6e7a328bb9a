"""An adapter's folder as peft writes it for any model: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from efficientllm.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

#: Words of a configuration that do not change what an adapter computes once it is filled.
_NOT_COMPARED = {"auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "peft_version"}
_NOT_COMPARED |= {"revision", "task_type"}


def write(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], base: str) -> None:
    """Write an adapter's folder, which `peft.PeftModel.from_pretrained` reads too."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {**config, "base_model_name_or_path": base or None, "inference_mode": True, "task_type": "CAUSAL_LM"}
    (folder / CONFIG).write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, folder / WEIGHTS)


def read(folder: Path, config: dict[str, Any], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return an adapter's weights.

    Args:
        folder: where they are.
        config: what the adapter must be.
        like: what the weights must be called, and their shapes.

    Raises:
        UserError: there is none, or it is another method's or another model's.
    """
    saved = _config(folder)
    plain = json.loads(json.dumps(config))
    for key in sorted(plain.keys() & saved.keys() - _NOT_COMPARED, key=lambda key: (key != "peft_type", key)):
        if "dropout" not in key and _order(saved[key]) != _order(plain[key]):
            raise UserError(
                f"{folder} has {key} {saved[key]!r}, but the method here has {plain[key]!r}. Choose the same."
            )
    try:
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {WEIGHTS}. Give the folder of a saved adapter.") from error
    check(folder, {key: value.shape for key, value in weights.items()}, {k: v.shape for k, v in like.items()})
    return weights


def check(folder: Path, found: dict[str, torch.Size], wanted: dict[str, torch.Size]) -> None:
    """Hold names and shapes of a folder's weights to those of the model.

    Raises:
        UserError: they differ.
    """
    if found.keys() != wanted.keys():
        missing = wanted.keys() - found.keys()
        what = f"lacks {min(missing)}" if missing else f"has {min(found.keys() - wanted.keys())}"
        raise UserError(f"{folder} {what}, unlike this model. It was saved for another one.")
    for key, shape in wanted.items():
        if found[key] != shape:
            raise UserError(
                f"{folder}: {key} is {tuple(found[key])}, but here it is {tuple(shape)}. It is another model's."
            )


def _config(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {CONFIG}. Give the folder of a saved adapter.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / CONFIG} cannot be read: {error}. Give the folder of a saved adapter.") from error
    return found


def _order(value: Any) -> Any:
    """Return a list in an order of its own: that of targets says nothing."""
    return sorted(value, key=str) if isinstance(value, list) else value
