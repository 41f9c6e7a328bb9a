"""Takes a cache of the transformers library back to a length, whatever its layers are."""

from __future__ import annotations

from typing import Any

from efficientllm.errors import Unsupported

#: Of one layer: its keys, its values, how many tokens passed it. None for a layer that can be cropped to any length.
Kept = tuple[Any, Any, int] | None


def keep(layer: Any) -> Kept:
    """Return what takes a layer back to this point: nothing for full attention, the whole window for a sliding one.

    A dynamic layer makes new tensors with each token, so that holding the old ones is enough; a static one writes over
    them.

    Raises:
        Unsupported: a layer of another kind.
    """
    kind = type(layer).__name__
    if kind in ("DynamicLayer", "StaticLayer"):
        return None
    if kind == "DynamicSlidingWindowLayer":
        return layer.keys, layer.values, layer.cumulative_length
    if kind == "StaticSlidingWindowLayer":
        return layer.keys.clone(), layer.values.clone(), layer.cumulative_length_int
    raise Unsupported(f"a cache with a {kind} cannot be taken back to a point; decode needs that")


def take_back(layer: Any, kept: Kept, now: int, length: int) -> None:
    """Take a layer from `now` tokens to the length at which it was kept."""
    kind = type(layer).__name__
    if kind == "DynamicLayer":
        layer.crop(length - now)
    elif kind == "StaticLayer":
        layer.cumulative_length.fill_(length)
    elif kind == "DynamicSlidingWindowLayer":
        assert kept is not None
        layer.keys, layer.values, layer.cumulative_length = kept
    else:
        assert kept is not None
        layer.keys.copy_(kept[0])
        layer.values.copy_(kept[1])
        layer.cumulative_length_int = length
        layer.cumulative_length.fill_(min(length, layer.max_cache_len))


def empty(cache: Any) -> None:
    """Empty a static cache in place, so that its addresses stay."""
    for layer in cache.layers:
        if layer.is_initialized:
            layer.cumulative_length.zero_()
            if hasattr(layer, "cumulative_length_int"):
                layer.cumulative_length_int = 0
