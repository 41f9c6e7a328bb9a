"""Holds a count equal to that of the plain model: parameters, training FLOPs, or the cache's bytes a token.

The plain model is the size as it is named, with what the recipe says of its shape: gqa, rope, the dense mlp and the
blocks of `modern`. What gives way is the mlp's width (`params`, `flops`) or the mixer's own width (`cache`: the knob
that its entry names). Counts are taken from models on the meta device, so nothing is allocated and nothing assumed but
that a count is a straight line over the width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import msgspec
import torch

from efficientllm.errors import Unsupported
from efficientllm.models.assemble import assemble, check_parts, load_slot
from efficientllm.models.costs import facts
from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.shape import Shape, resolve_shape
from efficientllm.records.choice import Choice
from efficientllm.records.measurement import ModelFacts
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.preset import split_size

#: The shape, the settings that lead to it, and what was changed in them (`ModelFacts.adjusted`).
Matched = tuple[Shape, ModelSettings, dict[str, float]]

#: `match` -> the count in `ModelFacts`.
_COUNTS = {"params": "parameters_total", "flops": "train_flops_per_token", "cache": "cache_bytes_per_token"}

#: Steps of a width, the widest first: products like multiples of 64. The first is taken where it costs no more than
#: this share of the count, a finer one where it keeps to the limit below.
_STEPS = {"shape.mlp_width": (64, 8, 1), "shape.head_dim": (8, 2), "mixer": (8, 1)}
_FREE = 1e-3

#: How far from the plain model's a count may end. A token's cache has few numbers, hence the larger share.
_LIMITS = {"params": 5e-3, "flops": 5e-3, "cache": 5e-2}

#: Every number of the cache counts the same, so one byte will do.
_CACHE_DTYPE_BYTES = 1


def matched(shape: Shape, settings: ModelSettings) -> Matched:
    """Return shape and settings with the width that makes the count of `settings.match` that of the plain model.

    Raises:
        Unsupported: no width does, or nothing in the mixer's cache could give way.
    """
    if settings.match == "shape":
        return shape, settings, {}
    check_parts(shape, settings)
    name = _COUNTS[settings.match]
    target = getattr(_counts(*_plain(shape, settings)), name)
    knob = _cache_knob(settings) if settings.match == "cache" else "shape.mlp_width"

    def count(width: int) -> float:
        return float(getattr(_counts(*_turned(shape, settings, knob, width)), name))

    steps = _STEPS.get(knob) or _STEPS["mixer"]
    width = _solve(count, target, steps, _LIMITS[settings.match], f"{settings.match} by {knob}")
    turned_shape, turned_settings = _turned(shape, settings, knob, width)
    return turned_shape, turned_settings, {knob: float(width), f"target.{name}": float(target)}


def with_adjusted(settings: ModelSettings, adjusted: dict[str, float]) -> ModelSettings:
    """Return the settings with those options of the mixer that were chosen for it."""
    for knob, width in adjusted.items():
        where, _, name = knob.partition(".")
        if where == "mixer":
            settings = _with_option(settings, name, int(width))
    return settings


def _plain(shape: Shape, settings: ModelSettings) -> tuple[Shape, ModelSettings]:
    """Return the plain model of the same size, overrides and vocabulary."""
    plain = ModelSettings(
        size=split_size(settings.size)[0], shape=settings.shape, sequence_tokens=settings.sequence_tokens
    )
    return resolve_shape(plain, shape.vocab_tokens), plain


def _counts(shape: Shape, settings: ModelSettings) -> ModelFacts:
    if settings.match == "cache":  # positions take no room there, and rope would refuse widths that are only tried
        settings = msgspec.structs.replace(settings, position=Choice(name="none"))
    decoder = assemble(shape, settings, device="meta", dtype=torch.float32)
    return facts(decoder, _CACHE_DTYPE_BYTES, settings.sequence_tokens)


def _cache_knob(settings: ModelSettings) -> str:
    entry: MixerEntry = load_slot("mixer", settings.mixer)
    if not entry.cache_knob:
        raise Unsupported(
            f"match: cache has nothing to turn in mixer {settings.mixer.name}: no width of its own sets what a token "
            "takes in the cache; match shape, params or flops"
        )
    of_shape = entry.cache_knob in {field.name for field in fields(Shape)}
    return f"{'shape' if of_shape else 'mixer'}.{entry.cache_knob}"


def _turned(shape: Shape, settings: ModelSettings, knob: str, width: int) -> tuple[Shape, ModelSettings]:
    where, _, name = knob.partition(".")
    if where == "shape":
        return replace(shape, **{name: width}), settings  # type: ignore[arg-type]
    return shape, _with_option(settings, name, width)


def _with_option(settings: ModelSettings, name: str, width: int) -> ModelSettings:
    options = {**settings.mixer.options, name: width}
    return msgspec.structs.replace(settings, mixer=msgspec.structs.replace(settings.mixer, options=options))


def _solve(count: Callable[[int], float], target: float, steps: tuple[int, ...], limit: float, what: str) -> int:
    """Return the width whose count is the target's but for rounding.

    >>> _solve(lambda width: 100 + 3 * width, 400, (64, 8, 1), 0.01, "params by shape.mlp_width")
    100
    """
    low, high = steps[0], 2 * steps[0]
    at_low = count(low)
    slope = (count(high) - at_low) / (high - low)
    if slope <= 0:
        raise Unsupported(f"match: {what}: the count does not grow with it; match something else")
    exact = low + (target - at_low) / slope
    if exact <= 0:
        without = at_low - low * slope
        raise Unsupported(
            f"match: {what}: without any the count is {without:.6g}, the plain model's {target:.6g} with it"
        )
    for step in steps:
        width = max(step, round(exact / step) * step)
        missed = abs(count(width) / target - 1)
        if missed <= (_FREE if step == steps[0] else limit):
            return width
    raise Unsupported(
        f"match: {what}: {width} comes nearest, {missed:.1%} off the plain model's {target:.6g}; match something else"
    )
