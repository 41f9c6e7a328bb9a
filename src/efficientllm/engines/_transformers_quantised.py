"""Folders of the transformers library whose weights are quantised already: what they need, and what is held of them.

The library of a scheme may lay weights out anew, or unpack them, when they are first used: that is done at loading, so
that what is counted is what is held while it is measured. Which of both it was stands in the record.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from efficientllm.errors import Unsupported, did_you_mean

#: Scheme of a checkpoint -> modules that transformers needs for it, and the packages that hold them.
_LIBRARIES = {
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "awq": {"gptqmodel": "gptqmodel"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "torchao": {"torchao": "torchao"},
    "hqq": {"hqq": "hqq"},
}

#: Attributes of a layer that torch.nn keeps; its tensors are asked for by their names.
_TORCHS_OWN = frozenset(vars(torch.nn.Module()))


def scheme_of(config: Mapping[str, Any]) -> str | None:
    """Return the scheme that a config.json names, empty where it does not say how; None for plain weights.

    >>> scheme_of({"quantization_config": {"load_in_4bit": True}}), scheme_of({})
    ('bitsandbytes', None)
    """
    said = config.get("quantization_config")
    if not said:
        return None
    scheme = str(said.get("quant_method", "") if isinstance(said, Mapping) else said)
    if not scheme and isinstance(said, Mapping) and (said.get("load_in_4bit") or said.get("load_in_8bit")):
        return "bitsandbytes"
    return scheme


def check_scheme(folder: Path, scheme: str | None) -> None:
    """Refuse a scheme that the library does not know, which it would pass over, or whose own library is not here.

    Raises:
        Unsupported: it is such a one.
    """
    if scheme is None:
        return
    libraries = _LIBRARIES.get(scheme, {})
    missing = [package for module, package in libraries.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise Unsupported(
            f"{folder}: its weights are quantised ({scheme}), for which {' and '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing: pip install {' '.join(missing)}"
        )
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as KNOWN

    if not libraries and scheme not in KNOWN:
        raise Unsupported(
            f"{folder}: unknown quantisation scheme {scheme!r} in config.json. {did_you_mean(scheme, KNOWN)}"
            f"transformers knows: {', '.join(sorted(map(str, KNOWN)))}"
        )


def arguments(engine: str, scheme: str | None) -> dict[str, Any]:
    """Return what loading is told beside the usual.

    Weights of compressed-tensors are unpacked at their first use in any case, and then lie in tables of its own, which
    torch cannot compile; for the engine that compiles, transformers unpacks them into plain layers.
    """
    if scheme != "compressed-tensors" or engine != "transformers_static":
        return {}
    from transformers import CompressedTensorsConfig

    return {"quantization_config": CompressedTensorsConfig(dequantize=True)}


def settle(model: Any) -> None:
    """Run one token, after which the weights lie as they will."""
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)


def check_dtype(folder: Path, model: Any, dtype: torch.dtype) -> None:
    """Refuse another number format of activations than the loaded one: some schemes keep that of the folder.

    Raises:
        Unsupported: it is another.
    """
    held = model.get_input_embeddings().weight.dtype
    if held != dtype:
        raise Unsupported(
            f"{folder}: transformers keeps these quantised weights beside {_name(held)}, whatever is asked. "
            f"Set dtype: {_name(held)}"
        )


def told(scheme: str, config: Mapping[str, Any], model: Any) -> str:
    """Return in one phrase which scheme it is, and whether its weights are held as small as they are on disk."""
    said = config.get("quantization_config")
    bits = _bits(said) if isinstance(said, Mapping) else ""
    packed = any(_is_packed(tensor) for tensor in held_tensors(model))
    return f"{scheme}{bits}, {'held packed' if packed else 'unpacked at loading: held dense'}"


def held_tensors(model: Any) -> Iterator[torch.Tensor]:
    """Yield what a model holds: parameters, buffers, and what a scheme's library keeps beside them in its layers.

    Nothing is asked for a state dict: bitsandbytes would lay weights out for saving, and lose precision on the way.
    """
    for module in model.modules():
        yield from module.parameters(recurse=False)
        yield from (
            b for name, b in module.named_buffers(recurse=False) if name not in module._non_persistent_buffers_set
        )
        if hasattr(module, "in_features"):
            layer = [value for name, value in vars(module).items() if name not in _TORCHS_OWN]
            for holder in (*layer, *(vars(parameter) for parameter in module.parameters(recurse=False))):
                yield from _tensors(holder)


def _tensors(holder: Any, depth: int = 4) -> Iterator[torch.Tensor]:
    """Yield the tensors in a value of any kind, those inside modules and types aside."""
    if isinstance(holder, torch.Tensor):
        yield holder
    elif depth and not isinstance(holder, torch.nn.Module | type):
        inside = holder.values() if isinstance(holder, Mapping) else holder if isinstance(holder, list | tuple) else ()
        for value in inside or getattr(holder, "__dict__", {}).values():
            yield from _tensors(value, depth - 1)


def _bits(said: Mapping[str, Any]) -> str:
    if said.get("load_in_4bit"):
        return f" {said.get('bnb_4bit_quant_type', 'fp4')}"
    groups = said.get("config_groups")
    found = [said.get("bits")] if said.get("bits") else [8] if said.get("load_in_8bit") else []
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        found += [weights.get("num_bits")] if isinstance(weights, Mapping) else []
    numbers = sorted({number for number in found if isinstance(number, int)})
    return f" {' and '.join(map(str, numbers))} bits" if numbers else ""


def _is_packed(tensor: torch.Tensor) -> bool:
    return tensor.ndim > 1 and (not tensor.is_floating_point() or tensor.itemsize == 1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
