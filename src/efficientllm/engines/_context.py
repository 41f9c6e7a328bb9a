"""How long a text a checkpoint was made for, as its config.json says: what is longer is refused, not extrapolated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from efficientllm.errors import Unsupported

#: Kinds of rope scaling whose factor multiplies the positions of training.
_STRETCHED = ("linear", "dynamic", "yarn")


def context_tokens(config: Mapping[str, Any]) -> int:
    """Return the longest text of a checkpoint in tokens, 0 where its config says none.

    Some files give the positions before they are stretched, and some those after it; the larger number holds, so that
    no text is refused that the model may have been made for.

    >>> context_tokens({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    8192
    """
    own = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else None
    config = own or config
    known = [value for key in ("max_position_embeddings", "n_positions") if isinstance(value := config.get(key), int)]
    if not known:
        return 0
    return max(known[0], *(int(base * factor) for base, factor in _stretched(config, known[0])), 0)


def refuse_beyond(context: int, tokens: int, what: str) -> None:
    """Refuse a text that is longer than a model's context.

    Raises:
        Unsupported: it is.
    """
    if context and tokens > context:
        raise Unsupported(
            f"{tokens} tokens exceed the {context} positions that {what} was made for (max_position_embeddings in its "
            "config.json): shorten the prompt or what follows it"
        )


def _stretched(config: Mapping[str, Any], positions: int) -> Iterator[tuple[float, float]]:
    """Yield positions and factor of each rope scaling, of which a model may have one for each kind of layer."""
    for key in ("rope_scaling", "rope_parameters"):
        said = config.get(key)
        for scaling in [said, *said.values()] if isinstance(said, Mapping) else ():
            if isinstance(scaling, Mapping) and scaling.get("rope_type", scaling.get("type")) in _STRETCHED:
                base, factor = scaling.get("original_max_position_embeddings") or positions, scaling.get("factor")
                yield float(base), float(factor or 1.0)
