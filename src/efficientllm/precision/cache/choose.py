"""From a recipe's choice to the coder of what is cached."""

from __future__ import annotations

import inspect

from efficientllm.precision.cache._contract import CacheCoder, CacheEntry
from efficientllm.records.choice import Choice, load_chosen


def load_coder(choice: Choice | None) -> CacheCoder | None:
    """Return the coder of a choice, None for a cache in the type of the activations.

    Raises:
        UnknownNameError: no such format.
        UserError: an option that it does not have or refuses, or a file whose ENTRY is of another kind.
    """
    if choice is None:
        return None
    entry = load_chosen("cache_format", choice, CacheEntry, lambda e: list(inspect.signature(e.coder).parameters))
    return entry.coder(**choice.options)
