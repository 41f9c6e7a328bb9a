"""Methods whose start takes something out of the base and into the adapter (PiSSA, OLoRA), saved for the model itself.

    at the start   W = W' + s B0 A0, and W' stays in the model
    trained        W' + s B A  =  W + s [B  -B0] [A; A0]

What is saved is the right side: a LoRA of twice the rank, which any reader lays on the model as it was.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def mutates(config: Any) -> bool:
    """Whether a configuration of `peft` changes the base at the start."""
    init = getattr(config, "init_lora_weights", True)
    return isinstance(init, str) and init.lower().startswith(("pissa", "olora"))


def widened(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the adapter of twice the rank whose products have the same scale."""
    wider = math.sqrt(2) if config["use_rslora"] else 2
    return {
        **config,
        "r": 2 * config["r"],
        "lora_alpha": wider * config["lora_alpha"],
        "rank_pattern": {key: 2 * rank for key, rank in config["rank_pattern"].items()},
        "alpha_pattern": {key: wider * alpha for key, alpha in config["alpha_pattern"].items()},
        "init_lora_weights": True,
    }


def joined(trained: dict[str, Tensor], initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the wider adapter."""
    return {
        key: torch.cat([now, initial[key]] if _is_down(key) else [now, -initial[key]], 0 if _is_down(key) else 1)
        for key, now in trained.items()
    }


def parted(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what `joined` was given."""
    halves = {key: both.chunk(2, 0 if _is_down(key) else 1) for key, both in weights.items()}
    initial = {key: half[1] if _is_down(key) else -half[1] for key, half in halves.items()}
    return {key: half[0].contiguous() for key, half in halves.items()}, initial


def moved(prefix: str, scale: float, old: dict[str, Tensor], new: dict[str, Tensor]) -> Tensor:
    """Return what a layer's base gains when another start is taken: s (B0 A0 of the old - that of the new)."""
    down, up = f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"
    return scale * (old[up] @ old[down] - new[up] @ new[down])


def _is_down(key: str) -> bool:
    return ".lora_A." in key
