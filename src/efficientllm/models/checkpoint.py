"""Saves and loads decoders: safetensors, `config.json`, and a sidecar from which a model is rebuilt exactly.

    FOLDER/
      config.json         what transformers and servers read
      model.safetensors   weights
      efficientllm.json   the settings and the shape: which slots, with which options
      tokenizer.json …    if one was given

Attention of the Llama kind (mha, gqa, mqa) with rope, the dense mlp and the blocks of `modern` is written as a genuine
Llama, Qwen2, Qwen3 or Mistral folder; anything else under `model_type: efficientllm` with this package's own names.
Nothing here imports transformers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from efficientllm.errors import Unsupported, UserError
from efficientllm.models.assemble import assemble
from efficientllm.models.decoder import Decoder
from efficientllm.models.families import config_of, family_of, shape_of
from efficientllm.models.match import with_adjusted
from efficientllm.models.shape import Shape
from efficientllm.models.weight_files import locate_weights, read_config, refuse_quantised
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

SIDECAR = "efficientllm.json"
MODEL_TYPE = "efficientllm"

#: Parts of one of our parameters in a file: (name there, number of rows).
Parts = tuple[tuple[str, int], ...]


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What rebuilds a model: the settings it was built from, the shape they led to, and what `match` chose in both."""

    settings: ModelSettings
    shape: Shape
    adjusted: dict[str, float] = {}
    format: int = 1


def save(
    decoder: Decoder,
    settings: ModelSettings,
    folder: Path,
    tokenizer_path: Path | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a decoder into a folder, which appears whole or not at all; one that is there is replaced.

    Args:
        decoder: the model.
        settings: what it was built from; further fields of a workload's settings are left out.
        folder: where to.
        tokenizer_path: a `tokenizer.json`, or a folder with tokenizer files, to lay beside it.
        weights: name -> whole parameter, where the decoder itself holds only shares of them.
    """
    model_settings = ModelSettings(**{name: getattr(settings, name) for name in ModelSettings.__struct_fields__})
    model_settings = with_adjusted(model_settings, decoder.adjusted)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    family = family_of_decoder(decoder)
    dtype = str(decoder.dtype).removeprefix("torch.")
    save_file(
        {name: part.clone() for name, part in file_tensors(decoder, weights)},
        draft / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = _own_config(decoder, dtype) if family is None else config_of(decoder.block(0).mixer.shape, family, dtype)
    (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    sidecar = Sidecar(settings=model_settings, shape=decoder.shape, adjusted=decoder.adjusted)
    (draft / SIDECAR).write_bytes(msgspec.json.format(msgspec.json.encode(sidecar)) + b"\n")
    if tokenizer_path is not None:
        _copy_tokenizer(tokenizer_path, draft)
    _put_in_place(draft, folder)


def load(
    folder: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    after_block: Callable[[Decoder, int], None] | None = None,
) -> Decoder:
    """Return the decoder of a folder: one saved here, or a Llama, Qwen2, Qwen3 or Mistral folder from elsewhere.

    `after_block` is called with the number of each layer as soon as it has its weights, and may replace its parts.

    Raises:
        UserError: no such folder, or its files do not belong together.
        Unsupported: a model that this decoder cannot be, or weights that are quantised already.
    """
    refuse_quantised(read_config(folder), folder)
    decoder = outline(folder, device, dtype)
    parts, parameters = checkpoint_parts(decoder), dict(decoder.named_parameters())
    where = locate_weights(folder)
    wanted = {name for pieces in parts.values() for name, _ in pieces}
    missing, surplus = wanted - where.keys(), set(where) - wanted - _harmless(decoder)
    if missing or surplus:
        what = f"lacks {min(missing)}" if missing else f"has {min(surplus)}, which this model has no place for"
        raise UserError(f"{folder} {what}. Its config.json and its weights do not belong together.")
    with torch.no_grad():
        for number in range(decoder.shape.num_layers):
            for name in [name for name in parts if name.startswith(f"blocks.{number}.")]:
                _fill(parameters.pop(name), parts[name], where, folder)
            if after_block is not None:
                after_block(decoder, number)
        for name in [name for name in parts if name in parameters]:
            _fill(parameters[name], parts[name], where, folder)
    return decoder


def outline(folder: Path, device: str | torch.device = "meta", dtype: torch.dtype = torch.float32) -> Decoder:
    """Return the decoder of a folder with no weights in it: enough to count its costs on the device `meta`.

    Raises:
        As `load`, but for what concerns the weights.
    """
    sidecar = _sidecar(folder)
    decoder = assemble(sidecar.shape, sidecar.settings, device=device, dtype=dtype)
    decoder.adjusted = sidecar.adjusted
    return decoder


def describe(folder: Path) -> tuple[ModelSettings, Shape]:
    """Return settings and shape of a saved model without reading its weights.

    For a folder from elsewhere the slots are those of its family; fields about text have their defaults, also
    `vocab_tokens`: the model's vocabulary stands in the shape.
    """
    sidecar = _sidecar(folder)
    return sidecar.settings, sidecar.shape


def family_of_decoder(decoder: Decoder) -> str | None:
    """Return the family that a decoder can be saved as, or None."""
    block = decoder.block(0)
    plain = decoder.position.family and block.mixer.checkpoint_names() and block.mlp.checkpoint_names()
    return family_of(block.mixer.shape) if plain else None


def checkpoint_parts(decoder: Decoder) -> dict[str, Parts]:
    """Return own parameter -> its parts in the file, in order of rows."""
    if family_of_decoder(decoder) is None:
        return {name: ((f"decoder.{name}", p.shape[0]),) for name, p in decoder.named_parameters()}
    shape = decoder.shape
    parts: dict[str, Parts] = {
        "embed.weight": (("model.embed_tokens.weight", shape.vocab_tokens),),
        "norm.weight": (("model.norm.weight", shape.width),),
    }
    if decoder.head is not None:
        parts["head.weight"] = (("lm_head.weight", shape.vocab_tokens),)
    for number in range(shape.num_layers):
        block, own, theirs = decoder.block(number), f"blocks.{number}", f"model.layers.{number}"
        parts[f"{own}.mixer_norm.weight"] = ((f"{theirs}.input_layernorm.weight", shape.width),)
        parts[f"{own}.mlp_norm.weight"] = ((f"{theirs}.post_attention_layernorm.weight", shape.width),)
        for slot, names in (("mixer", block.mixer.checkpoint_names()), ("mlp", block.mlp.checkpoint_names())):
            for name, pieces in names.items():
                parts[f"{own}.{slot}.{name}"] = tuple((f"{theirs}.{piece}", rows) for piece, rows in pieces)
    return parts


def file_tensors(decoder: Decoder, weights: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield name in the file -> its tensor on the processor, a view where it can be one; `weights` as in `save`."""
    parameters = weights or dict(decoder.named_parameters())
    for name, pieces in checkpoint_parts(decoder).items():
        rows = parameters[name].detach().cpu().split([count for _, count in pieces])
        yield from ((piece, part) for (piece, _), part in zip(pieces, rows, strict=True))


def weight_file_bytes(folder: Path) -> int:
    """Return the bytes of a folder's weight files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _sidecar(folder: Path) -> Sidecar:
    try:
        if (folder / SIDECAR).exists():
            return msgspec.json.decode((folder / SIDECAR).read_bytes(), type=Sidecar)
    except msgspec.DecodeError as error:
        raise UserError(f"{folder} cannot be read: {error}. Give the folder of a saved model.") from error
    try:
        shape = shape_of(read_config(folder))
    except Unsupported as error:
        raise Unsupported(f"{folder}: {error}") from error
    except KeyError as error:
        raise UserError(f"{folder}: config.json lacks {error}. Give the folder of a saved model.") from error
    fields = {name: value for name, value in asdict(shape).items() if name != "vocab_tokens"}
    return Sidecar(settings=ModelSettings(shape=fields, mixer=Choice(name="gqa")), shape=shape)


def _fill(parameter: Tensor, pieces: Parts, where: dict[str, Path], folder: Path) -> None:
    start = 0
    for name, rows in pieces:
        with safe_open(where[name], framework="pt", device="cpu") as file:
            tensor = file.get_tensor(name)
        target = parameter[start : start + rows]
        if tensor.shape != target.shape:
            raise UserError(
                f"{folder}: {name} is {tuple(tensor.shape)}, but config.json makes it {tuple(target.shape)}. "
                "Its config.json and its weights do not belong together."
            )
        target.copy_(tensor)
        start += rows


def _harmless(decoder: Decoder) -> set[str]:
    """Return names that some files hold beside what the model needs: a copy of a tied head, rotary tables."""
    tables = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq" for n in range(decoder.shape.num_layers)}
    return tables | ({"lm_head.weight"} if decoder.head is None else set())


def _own_config(decoder: Decoder, dtype: str) -> dict[str, Any]:
    shape = decoder.shape
    return {
        "architectures": ["EfficientLLMForCausalLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": shape.vocab_tokens,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "tie_word_embeddings": shape.tie_embeddings,
        "max_position_embeddings": shape.max_positions,
        "torch_dtype": dtype,
    }


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """Lay tokenizer files beside the model; a lone `tokenizer.json` gets the config that names its class."""
    if source.is_dir():
        for path in source.iterdir():
            if path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "added_tokens")):
                shutil.copyfile(path, folder / path.name)
        return
    shutil.copyfile(source, folder / "tokenizer.json")
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")


def _put_in_place(draft: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
