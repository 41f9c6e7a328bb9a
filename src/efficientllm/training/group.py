"""The processes that write and read one checkpoint together: all ranks of torch's default group, or this one alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def together() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def rank_here() -> int:
    """Return this process's number, 0 where it is alone."""
    return dist.get_rank() if together() else 0


def num_ranks() -> int:
    """Return how many there are."""
    return dist.get_world_size() if together() else 1


def first_does(do: Callable[[], T]) -> T:
    """Let the first rank do something, and return on all ranks what it returned; all must call this.

    Raises:
        OSError: on all ranks, if it failed on the first.
    """
    if not together():
        return do()
    held: list[T | OSError | None] = [None]
    if rank_here() == 0:
        try:
            held[0] = do()
        except OSError as error:
            held[0] = error
    dist.broadcast_object_list(held)
    if isinstance(held[0], OSError):
        raise held[0]
    return held[0]  # type: ignore[return-value] # what `do` gave


def all_say(value: T) -> list[T]:
    """Return what each rank gave, in their order; all must call it."""
    said: list[T] = [value] * num_ranks()
    dist.all_gather_object(said, value)
    return said
