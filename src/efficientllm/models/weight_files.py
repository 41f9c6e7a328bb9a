"""The files of a checkpoint: which tensor lies where, and what is refused before any is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from efficientllm.errors import Unsupported, UserError

#: Endings of weight files that are Python pickles: to read one is to run whatever program it holds.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's `config.json`.

    Raises:
        UserError: there is none, or it is no mapping.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no model: no config.json. Give the folder of a saved model.") from error
    except ValueError as error:
        raise UserError(f"{folder} cannot be read: {error}. Give the folder of a saved model.") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder}: config.json is no mapping. Give the folder of a saved model.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder.

    Raises:
        UserError: it holds none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLES)
    if pickles:
        raise UserError(
            f"{folder} holds its weights as a pickle ({pickles[0]}): reading one can run code that came with it. "
            "Convert it to safetensors first."
        )
    raise UserError(f"{folder} holds no *.safetensors. Convert its weights first.")


def locate_weights(folder: Path) -> dict[str, Path]:
    """Return weight name -> the file that holds it.

    Raises:
        UserError: there are no weights, or a file is damaged.
    """
    where: dict[str, Path] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                where |= dict.fromkeys(file.keys(), path)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}. Fetch or save it again.") from error
    return where


def refuse_quantised(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a checkpoint whose weights somebody else's format holds.

    Raises:
        Unsupported: its `quantization_config` says so.
    """
    said = config.get("quantization_config")
    if said:
        scheme = said.get("quant_method") if isinstance(said, Mapping) else said
        raise Unsupported(
            f"{folder}: config.json says that the weights are quantised ({scheme or 'it does not say how'}); this "
            "decoder reads plain weights and packs them itself (precision); engine transformers may read this folder"
        )
