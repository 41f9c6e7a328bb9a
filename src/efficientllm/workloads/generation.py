"""Greedy answers of an engine to prompts of any lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from efficientllm.engines._contract import Engine

_ROWS_AT_ONCE = 16


def generate_after(
    engine: Engine, prompts: Sequence[Sequence[int]], new_tokens: int, progress: Callable[[int, int], None]
) -> list[list[int]]:
    """Return what greedy decoding gives after each prompt; prompts of one length are read side by side.

    Engines read prompts of equal lengths; nothing is padded here.

    Args:
        engine: who answers.
        prompts: token ids, at least one each.
        new_tokens: how many follow each.
        progress: is told how many are done, and of how many.
    """
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    said: list[list[int]] = [[] for _ in prompts]
    done = 0
    for same in by_length.values():
        for start in range(0, len(same), _ROWS_AT_ONCE):
            some = same[start : start + _ROWS_AT_ONCE]
            given_Bn = engine.generate(torch.tensor([list(prompts[i]) for i in some]), new_tokens)
            for i, ids in zip(some, given_Bn.tolist(), strict=True):
                said[i] = ids
            done += len(some)
            progress(done, len(prompts))
    return said


def until_end(ids: Sequence[int], end: int) -> list[int]:
    """Return ids up to the token that ends a text.

    >>> until_end([5, 6, 0, 7], 0)
    [5, 6]
    """
    return list(ids[: list(ids).index(end)]) if end in ids else list(ids)
