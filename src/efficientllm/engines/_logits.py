"""Next-token distributions of any engine: its own where it tells them all at once, else token by token.

An engine may have a method `logits(tokens_BT)` that yields the logits after each token in pieces of consecutive
positions, BtV in float32, each at most `most_logits_bytes()` large where the engine can cut them; a piece may be
overwritten by the next. It computes as it serves: through its weights and its cache as they are. The present batch may
be given up. Letters as in `models/mixers/_contract.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.engines._contract import Engine

#: Logits in float32 that are held at once; what is compared takes a few times as much.
_LOGITS_BYTES = {"cpu": 32 * 1024**2, "cuda": 256 * 1024**2}

#: A context, and what follows it: token ids, at least one each.
Continued = tuple[Sequence[int], Sequence[int]]


@runtime_checkable
class TellsLogits(Protocol):
    """An engine that tells the logits after each token of its own accord."""

    def logits(self, tokens_BT: Tensor) -> Iterator[Tensor]:
        """Yield the logits after each token, in order of position, BtV in float32 on the engine's device."""
        ...


def most_logits_bytes(device: torch.device) -> int:
    """Return how many bytes of logits a piece may have."""
    return _LOGITS_BYTES.get(device.type, _LOGITS_BYTES["cuda"])


def piece_tokens(rows: int, vocab_tokens: int, device: torch.device) -> int:
    """Return how many positions of so many rows a piece has.

    >>> piece_tokens(8, 4096, torch.device("cpu"))
    256
    """
    return max(1, most_logits_bytes(device) // (4 * rows * vocab_tokens))


def logits_of(engine: Engine, tokens_BT: Tensor) -> Iterator[Tensor]:
    """Yield the logits after each token, in pieces of consecutive positions, BtV in float32.

    An engine that does not tell them is asked token by token, as it decodes: slow, and right.
    """
    if isinstance(engine, TellsLogits):
        yield from engine.logits(tokens_BT)
        return
    batch, length = tokens_BT.shape
    engine.begin(batch, length)
    yield engine.prefill(tokens_BT[:, :1])[:, None].float()
    for place in range(1, length):
        yield engine.decode(tokens_BT[:, place])[:, None].float()


def row_nats(engine: Engine, rows_BT: Tensor) -> list[float]:
    """Return the summed loss in nats of every token after the first, row by row."""
    if not isinstance(engine, TellsLogits):
        return [engine.score(rows_BT[row : row + 1])[0] for row in range(len(rows_BT))]
    nats_B = torch.zeros(len(rows_BT), dtype=torch.float64)
    place = 1
    for logits_BtV in engine.logits(rows_BT[:, :-1]):
        targets_Bt = rows_BT[:, place : place + logits_BtV.shape[1]].to(logits_BtV.device)
        nats_B += nats_of(logits_BtV, targets_Bt).double().sum(1).cpu()
        place += logits_BtV.shape[1]
    return nats_B.tolist()


def nats_of(logits_BtV: Tensor, targets_Bt: Tensor) -> Tensor:
    """Return the loss of each target in nats, Bt, in float32."""
    return F.cross_entropy(logits_BtV.flatten(0, 1), targets_Bt.flatten(), reduction="none").view(targets_Bt.shape)


def continuation_nats(engine: Engine, continued: Sequence[Continued]) -> list[tuple[float, bool]]:
    """Return for each continuation its summed loss in nats, and whether each of its tokens is the likeliest.

    Rows of one call are padded on the right, where nothing that counts sees it.

    Args:
        engine: whose distributions.
        continued: contexts and what follows; of one call, so few that their rows fit side by side.
    """
    rows = [[*context, *following] for context, following in continued]
    longest = max(map(len, rows))
    tokens_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    counted_BT = torch.tensor(
        [[len(context) <= place < len(row) for place in range(1, longest)]
         for row, (context, _) in zip(rows, continued, strict=True)]
    )  # fmt: skip
    nats_B, greedy_B, place = torch.zeros(len(rows), dtype=torch.float64), torch.ones(len(rows), dtype=torch.bool), 0
    for logits_BtV in logits_of(engine, tokens_BT[:, :-1]):
        some = slice(place, place + logits_BtV.shape[1])
        targets_Bt = tokens_BT[:, 1:][:, some].to(logits_BtV.device)
        counted_Bt = counted_BT[:, some]
        nats_B += (nats_of(logits_BtV, targets_Bt).cpu().double() * counted_Bt).sum(1)
        greedy_B &= ((logits_BtV.argmax(-1) == targets_Bt).cpu() | ~counted_Bt).all(1)
        place = some.stop
    return list(zip(nats_B.tolist(), greedy_B.tolist(), strict=True))
