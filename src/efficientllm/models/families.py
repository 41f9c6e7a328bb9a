"""Llama, Qwen2, Qwen3 and Mistral: their `config.json` to a `Shape` and back. Needs no torch.

| family  | q/k/v bias | norm of q and k | sliding window |
|---------|------------|-----------------|----------------|
| llama   | no         | no              | no             |
| qwen2   | yes        | no              | no             |
| qwen3   | no         | yes             | no             |
| mistral | no         | no              | optional       |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efficientllm.errors import Unsupported
from efficientllm.models.shape import Shape, make_shape

#: family -> class that transformers has for it.
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

#: What a config may say that this decoder does not do, and the only value that it can have here.
_REQUIRED = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "attention_bias": False,
    "partial_rotary_factor": 1.0,
    "pretraining_tp": 1,
}


def family_of(shape: Shape) -> str | None:
    """Return the family whose models have this shape, or None: none of them has blocks of another design.

    >>> family_of(make_shape({"num_layers": 1, "width": 8, "num_heads": 2, "num_kv_heads": 1, "mlp_width": 8,
    ...     "vocab_tokens": 9, "qkv_bias": True}))
    'qwen2'
    """
    if shape.parallel_residual or shape.norm != "rms" or shape.rotary_share < 1 or shape.out_bias or shape.mlp_bias:
        return None
    marks = (shape.qkv_bias, shape.qk_norm, shape.sliding_window > 0)
    families = {
        (False, False, False): "llama",
        (True, False, False): "qwen2",
        (False, True, False): "qwen3",
        (False, False, True): "mistral",
    }
    return families.get(marks)


def config_of(shape: Shape, family: str, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model of this shape and family, for any version of transformers and any server."""
    return {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": shape.vocab_tokens,
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": _rope_scaling(shape),
        "tie_word_embeddings": shape.tie_embeddings,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": dtype,
        **_own_keys(shape, family),
    }


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Return the shape that a `config.json` describes.

    Raises:
        Unsupported: another family, or a feature that this decoder does not have.
    """
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise Unsupported(f"model_type {family!r} is none of the families that load here: {known}")
    for key, only in _REQUIRED.items():
        if config.get(key, only) not in (only, None) and not (key == "attention_bias" and family == "qwen2"):
            raise Unsupported(f"config.json says {key} = {config[key]!r}; this decoder has {only!r} only")
    num_heads = config["num_attention_heads"]
    return make_shape(
        {
            "num_layers": config["num_hidden_layers"],
            "width": config["hidden_size"],
            "num_heads": num_heads,
            "num_kv_heads": config.get("num_key_value_heads") or num_heads,
            "head_dim": config.get("head_dim") or config["hidden_size"] // num_heads,
            "mlp_width": config["intermediate_size"],
            "vocab_tokens": config["vocab_size"],
            "tie_embeddings": bool(config.get("tie_word_embeddings", False)),
            "norm_eps": config.get("rms_norm_eps", 1e-6),
            "qkv_bias": family == "qwen2",
            "qk_norm": family == "qwen3",
            "sliding_window": _sliding_window(config),
            "max_positions": config.get("max_position_embeddings", 32768),
            **_rope(config),
        }
    )


def _own_keys(shape: Shape, family: str) -> dict[str, Any]:
    if family == "mistral":
        return {"sliding_window": shape.sliding_window}
    if family == "llama":
        return {"attention_bias": False, "mlp_bias": False}
    return {"use_sliding_window": False} | ({"attention_bias": False} if family == "qwen3" else {})


def _rope_scaling(shape: Shape) -> dict[str, Any] | None:
    if shape.rope_scaling == "none":
        return None
    if shape.rope_scaling == "linear":
        return {"rope_type": "linear", "factor": shape.rope_factor}
    return {
        "rope_type": "llama3",
        "factor": shape.rope_factor,
        "low_freq_factor": shape.rope_low_freq_factor,
        "high_freq_factor": shape.rope_high_freq_factor,
        "original_max_position_embeddings": shape.rope_original_positions,
    }


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary fields; newer files have `rope_parameters`, older ones `rope_theta` and `rope_scaling`."""
    said = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = said.get("rope_type", said.get("type", "default"))
    fields: dict[str, Any] = {"rope_theta": float(said.get("rope_theta", config.get("rope_theta", 10_000.0)))}
    if kind == "default":
        return fields
    if kind not in ("linear", "llama3"):
        raise Unsupported(f"config.json says rope_type = {kind!r}; this decoder has default, linear and llama3")
    fields |= {"rope_scaling": kind, "rope_factor": float(said["factor"])}
    if kind == "llama3":
        fields["rope_low_freq_factor"] = float(said["low_freq_factor"])
        fields["rope_high_freq_factor"] = float(said["high_freq_factor"])
        fields["rope_original_positions"] = int(said["original_max_position_embeddings"])
    return fields


def _sliding_window(config: Mapping[str, Any]) -> int:
    """Return the window that all layers have, 0 if none has one."""
    window = config.get("sliding_window") or 0
    if config["model_type"] != "mistral" and not config.get("use_sliding_window", False):
        return 0
    kinds = set(config.get("layer_types") or ["sliding_attention"])
    if kinds == {"full_attention"} or not window:
        return 0
    if len(kinds) > 1 or (config["model_type"] != "mistral" and "layer_types" not in config):
        raise Unsupported("config.json gives a sliding window to some layers only; here all layers are alike")
    return int(window)
