"""Relative positions as in T5: to each score a head adds a learned number for the bucket of its distance."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.errors import UserError
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Embedding
from efficientllm.models.position._contract import Position, PositionEntry
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class BucketedPosition(Position):
    """Half of the buckets hold one distance each, the others grow by a constant factor up to `max_distance`.

    What lies farther back shares the last bucket; only the past has buckets, for the decoder is causal. One table
    serves all layers, as in T5, and so each forward pass looks it up once. Scores are scaled here as everywhere, which
    those of T5 are not.
    """

    biases_scores = True

    def __init__(self, shape: Shape, rotary_dim: int, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        for name, value, least in (("num_buckets", num_buckets, 2), ("max_distance", max_distance, num_buckets)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 2**24:
                raise UserError(
                    f"option {name} of position relative is {value!r}. Give a whole number from {least} on."
                )
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.table = Embedding(num_buckets, shape.num_heads)
        self.register_buffer("buckets", self._buckets(), persistent=False)
        self.buckets: Tensor

    def score_bias(self, index_BT: Tensor, key_index_BS: Tensor) -> Tensor:
        """Return each pair's number for each head, BNTS, with gradients."""
        distance_BTS = (index_BT[:, :, None] - key_index_BS[:, None]).clamp(0, self.max_distance)
        bias_BTSN = F.embedding(self.buckets[distance_BTS], self.table.weight)
        return bias_BTSN.permute(0, 3, 1, 2).contiguous()  # the fused kernels read it along S

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return the numbers of all pairs, their buckets, and which pairs see each other."""
        heads = self.table.weight.shape[1]
        return float(ahead.tokens**2 * (heads * ahead.dtype_bytes + 8 + 1))

    def restore(self) -> None:
        """Look the buckets up anew."""
        self.buckets = self._buckets().to(self.buckets.device)

    def _buckets(self) -> Tensor:
        """Return the bucket of each distance from 0 to `max_distance`, worked out on the host, alike on all devices."""
        found = [bucket_of(distance, self.num_buckets, self.max_distance) for distance in range(self.max_distance + 1)]
        return torch.tensor(found)


def bucket_of(distance: int, num_buckets: int, max_distance: int) -> int:
    """Return the bucket of a token so far back.

    >>> [bucket_of(distance, 32, 128) for distance in (0, 15, 16, 18, 127, 128, 9999)]
    [0, 15, 16, 16, 31, 31, 31]
    """
    exact = num_buckets // 2
    if distance < exact:
        return distance
    share = math.log(distance / exact) / math.log(max_distance / exact)
    return min(num_buckets - 1, exact + int(share * (num_buckets - exact)))


ENTRY = PositionEntry(
    card=Card(
        title="Bucketed relative position bias, as in T5",
        source="arXiv:1910.10683",
        improves=("compute",),
        costs=("quality",),
        note="against rope; no fused kernel adds it without a mask of all pairs, on CUDA one that repeats shared keys",
    ),
    build=BucketedPosition,
)
