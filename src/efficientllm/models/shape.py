"""The shape of a decoder: every count that its weights follow from. Needs no torch.

Size by name (sizes.py)  +  preset (presets/)  +  overrides (the recipe's `shape`)  ->  checked  ->  Shape
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from efficientllm.errors import UnknownNameError, UserError, did_you_mean
from efficientllm.models.sizes import SIZES
from efficientllm.records.choice import Scalar
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.preset import load_preset, split_size


@dataclass(frozen=True)
class Shape:
    """All counts of a decoder.

    Attributes:
        num_layers, width: blocks, and the width D of the residual stream.
        num_heads, num_kv_heads: query heads N and key/value heads K.
        head_dim: width H of one head; 0 in a size means `width // num_heads`, a resolved shape always has a number.
        mlp_width: inner width F of the feed-forward layer.
        vocab_tokens: rows V of the embedding.
        tie_embeddings: whether the head is the embedding's matrix.
        norm: `rms` (RMSNorm) or `layer` (LayerNorm with bias), before each sublayer and the head.
        norm_eps: added to the norm's mean square.
        parallel_residual: whether mixer and mlp of a block read the same input, or the mlp what the mixer left.
        rope_theta, rope_scaling: base of the rotary angles, and how they are stretched (`none`, `linear`, `llama3`).
        rope_factor, rope_low_freq_factor, rope_high_freq_factor, rope_original_positions: numbers of that stretching.
        rotary_share: the share of a head, counted from its first number, that rope turns.
        qkv_bias: whether the query, key and value projections have a bias (Qwen2).
        out_bias, mlp_bias: whether the mixer's last projection, and the mlp's, have one (GPT-NeoX).
        qk_norm: whether each head's query and key pass an RMSNorm (Qwen3).
        sliding_window: how many tokens back a token sees, itself included; 0 = all.
        max_positions: longest context the model is meant for; written into checkpoints.
    """

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    mlp_width: int
    vocab_tokens: int
    head_dim: int = 0
    tie_embeddings: bool = True
    norm: str = "rms"
    norm_eps: float = 1e-6
    parallel_residual: bool = False
    rope_theta: float = 10_000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_positions: int = 8192
    rotary_share: float = 1.0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int = 0
    max_positions: int = 32768


#: field -> (least, most) that makes sense; the most is there to catch slips such as a width in place of a count.
_BOUNDS: dict[str, tuple[float, float]] = {
    "num_layers": (1, 1_000),
    "width": (1, 1_000_000),
    "num_heads": (1, 10_000),
    "num_kv_heads": (1, 10_000),
    "mlp_width": (1, 10_000_000),
    "vocab_tokens": (2, 10_000_000),
    "head_dim": (2, 4_096),
    "norm_eps": (1e-12, 0.1),
    "rope_theta": (1.0, 1e12),
    "rope_factor": (1.0, 1e4),
    "rope_low_freq_factor": (1e-3, 1e3),
    "rope_high_freq_factor": (1e-3, 1e3),
    "rope_original_positions": (1, 100_000_000),
    "rotary_share": (0.001, 1.0),
    "sliding_window": (0, 100_000_000),
    "max_positions": (1, 100_000_000),
}

#: field -> the words it may be.
_WORDS = {"norm": ("rms", "layer"), "rope_scaling": ("none", "linear", "llama3")}


def resolve_shape(settings: ModelSettings, vocab_tokens: int) -> Shape:
    """Return the shape that the settings ask for: the named size, the preset, then `settings.shape` laid over it.

    Raises:
        UnknownNameError: no such size or preset.
        UserError: an unknown field, or a value that makes no model.

    >>> resolve_shape(ModelSettings(size="tiny", shape={"num_layers": 2}), vocab_tokens=2048).num_layers
    2
    """
    size, preset = split_size(settings.size)[0], load_preset(settings.preset)
    if size not in SIZES:
        raise UnknownNameError("size", size, SIZES)
    fields = [field.name for field in dataclasses.fields(Shape) if field.name != "vocab_tokens"]
    for key in settings.shape:
        if key == "vocab_tokens":
            raise UserError("shape.vocab_tokens cannot be set here. Set vocab_tokens itself.")
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise UserError(f"unknown key {key!r} in shape. {hint}Known: {', '.join(sorted(fields))}.")
    given = {**SIZES[size], **preset.shape}
    width = settings.shape.get("width", given["width"])
    if preset.mlp_ratio and isinstance(width, int):  # else make_shape says what is wrong with it
        given["mlp_width"] = round(preset.mlp_ratio * width)
    return make_shape({**given, **settings.shape, "vocab_tokens": vocab_tokens})


def make_shape(fields: Mapping[str, Scalar]) -> Shape:
    """Return the checked shape of these fields, with the head's width worked out where it is not given.

    Raises:
        UserError: a field of the wrong type, out of bounds, or heads that do not divide.
    """
    try:
        shape = msgspec.convert(dict(fields), Shape)
    except msgspec.ValidationError as error:
        what, _, key = str(error).partition(" - at `$.")
        key = key.rstrip("`")
        raise UserError(f"shape.{key} is {fields.get(key)!r}: {what}. Mend its value.") from error
    if shape.head_dim == 0:
        _check_bounds(dataclasses.replace(shape, head_dim=2))
        if shape.width % shape.num_heads:
            raise UserError(
                f"shape.num_heads {shape.num_heads} does not divide shape.width {shape.width}. "
                "Choose a divisor, or give shape.head_dim."
            )
        shape = dataclasses.replace(shape, head_dim=shape.width // shape.num_heads)
    _check_bounds(shape)
    _check_heads(shape)
    return shape


def _check_bounds(shape: Shape) -> None:
    for name, (least, most) in _BOUNDS.items():
        value = getattr(shape, name)
        if not least <= value <= most:
            raise UserError(f"shape.{name} is {value}. Give a number from {least:g} to {most:g}.")


def _check_heads(shape: Shape) -> None:
    if shape.num_heads % shape.num_kv_heads:
        raise UserError(
            f"shape.num_kv_heads {shape.num_kv_heads} does not divide shape.num_heads {shape.num_heads}. "
            "Choose a divisor: each key/value head serves equally many query heads."
        )
    for name, words in _WORDS.items():
        if getattr(shape, name) not in words:
            raise UserError(f"shape.{name} is {getattr(shape, name)!r}. Choose one of: {', '.join(words)}.")
