"""Greedy decoding of prompts of any lengths side by side, by an engine's own prefill and decode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efficientllm.engines._contract import Engine, Prompts


def rows_of(prompts: Prompts) -> list[list[int]]:
    """Return prompts as lists.

    >>> rows_of(torch.tensor([[1, 2], [3, 4]]))
    [[1, 2], [3, 4]]
    """
    rows = prompts.tolist() if isinstance(prompts, Tensor) else [list(prompt) for prompt in prompts]
    assert rows and all(rows), "each prompt has at least one token"
    return rows


def greedy(engine: Engine, prompts: Prompts, new_tokens: int) -> Tensor:
    """Return the likeliest next tokens after each prompt, Bn; what `Engine.generate` promises, without any padding.

    What all prompts have is read at once. From there on each row goes on with its own prompt, token by token, until
    that is used up, so that it serves every mixer, also one whose state no padding may enter. Nothing here waits for
    the device.
    """
    rows = rows_of(prompts)
    lengths = [len(row) for row in rows]
    common, longest = min(lengths), max(lengths)
    told_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=engine.device)
    length_B = torch.tensor(lengths, device=engine.device)
    engine.begin(len(rows), longest + new_tokens)
    token_B = engine.prefill(told_BT[:, :common]).argmax(-1)
    seen = [token_B]  # after position common - 1, and on
    for place in range(common, longest + new_tokens - 1):
        if place < longest:
            token_B = torch.where(length_B > place, told_BT[:, place], token_B)
        token_B = engine.decode(token_B).argmax(-1)
        seen.append(token_B)
    first_B1 = (length_B - common)[:, None]
    return torch.stack(seen, dim=1).gather(1, first_B1 + torch.arange(new_tokens, device=engine.device))


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return tokens BT with zeros before the shorter prompts, and how many of those each row has, B.

    >>> left_padded([[5], [6, 7]])
    (tensor([[0, 5],
            [6, 7]]), tensor([1, 0]))
    """
    longest = max(len(row) for row in rows)
    pads = [longest - len(row) for row in rows]
    padded = [[0] * pad + list(row) for pad, row in zip(pads, rows, strict=True)]
    return torch.tensor(padded), torch.tensor(pads)
