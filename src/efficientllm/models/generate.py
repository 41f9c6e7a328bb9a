"""Greedy decoding of prompts of any lengths side by side, for quality; engines are what is timed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from efficientllm.models.decoder import Decoder


def generate(
    decoder: Decoder, prompts: Sequence[Sequence[int]], max_new: int, ends: Collection[int]
) -> list[list[int]]:
    """Return what greedy decoding gives after each prompt, without the token that ends it.

    Prompts may have different lengths, and nothing is padded: what all have is read at once, and from there on each
    row goes on with its own prompt, token by token, until that is used up.

    Args:
        decoder: the model.
        prompts: token ids, at least one each.
        max_new: most tokens after a prompt.
        ends: ids at which a row stops.
    """
    lengths = [len(prompt) for prompt in prompts]
    common, longest = min(lengths), max(lengths)
    state = decoder.allocate(len(prompts), longest + max_new)
    shared = torch.tensor([list(prompt[:common]) for prompt in prompts], device=decoder.device)
    logits_BV = decoder(shared, state=state, last_only=True)[:, 0]
    made: list[list[int]] = [[] for _ in prompts]
    done = [False] * len(prompts)
    for place in range(common, longest + max_new):
        likeliest = logits_BV.argmax(-1).tolist()
        for row, token in enumerate(likeliest):
            if place >= lengths[row] and not done[row]:
                done[row] = token in ends or len(made[row]) == max_new
                made[row] += [] if done[row] else [token]
        if all(done):
            break
        following = [prompts[row][place] if place < lengths[row] else likeliest[row] for row in range(len(prompts))]
        logits_BV = decoder.step(torch.tensor(following, device=decoder.device), state)
    return made
