"""How evenly the experts of a decoder are used: figures of many steps, and one number of the step just done.

max ratio   the busiest expert's share of the tokens over an even share: 1 if even, E / A if each token goes there
cv          standard deviation over mean of the experts' token counts: 0 if even
idle        share of the experts that got no token at all
entropy     of the router's distribution, mean over tokens: ln(E) if it cannot tell the experts apart
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from efficientllm.models.decoder import Decoder
from efficientllm.models.mlp._contract import LoadTally, Mlp


def step_max_ratio(decoder: Decoder) -> Tensor | None:
    """Return the largest max ratio of any layer in the step just done, on the device; None without experts.

    Call it before `Decoder.after_step`, and read it together with something that is read anyway.
    """
    loads = [load for load in (mlp.step_load() for mlp in _mlps(decoder)) if load is not None]
    if not loads:
        return None
    loads_LE = torch.stack(loads).float()
    return (loads_LE.amax(1) / loads_LE.mean(1)).amax()


def reset(decoder: Decoder) -> None:
    """Count from here on."""
    for mlp in _mlps(decoder):
        mlp.reset_load()


def figures(decoder: Decoder) -> dict[str, float]:
    """Return the figures since `reset`, of the decoder and of each layer; none without experts or steps.

    The decoder's: the largest max ratio of its layers, the mean cv and entropy, the idle share of all experts.
    """
    tallies = [
        tally for tally in (mlp.load_tally() for mlp in _mlps(decoder)) if tally is not None and any(tally.tokens)
    ]
    if not tallies:
        return {}
    layers = [_layer_figures(tally) for tally in tallies]
    columns = {name: [layer[name] for layer in layers] for name in layers[0]}
    overall = {name: statistics.fmean(values) for name, values in columns.items()}
    overall["expert_load_max_ratio"] = max(columns["expert_load_max_ratio"])
    named = {f"layer_{number:02}_{name}": value for number, layer in enumerate(layers) for name, value in layer.items()}
    return overall | named


def _layer_figures(tally: LoadTally) -> dict[str, float]:
    mean = statistics.fmean(tally.tokens)
    return {
        "expert_load_max_ratio": max(tally.tokens) / mean,
        "expert_load_cv_ratio": statistics.pstdev(tally.tokens) / mean,
        "expert_idle_ratio": tally.tokens.count(0) / len(tally.tokens),
        "router_entropy_nats": tally.entropy_nats,
    }


def _mlps(decoder: Decoder) -> list[Mlp]:
    return [decoder.block(number).mlp for number in range(decoder.shape.num_layers)]
