"""NSA's choice of blocks: from the probabilities of the compressed branch to block numbers.

The choice is a step function: where two blocks score alike, a rounding error decides. So there is one function for all
paths, ties go to the block that comes first, and nothing here is differentiated (as in the paper).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.mixers._nsa_blocks import NUM_FORCED, Blocks
from efficientllm.models.position._contract import Positions

#: Later than every token: the end of an entry that does not exist.
_NEVER = 2**40


@dataclass(frozen=True)
class Layout:
    """Where queries and compressed entries stand among the keys. E: entries; rows B, or one that serves all.

    Attributes:
        here_BT: index of each query among the keys.
        start_BT: index of the first token of its sequence.
        ends_BE: index of the last token of each entry.
        skip_BT: entries of the row that belong to sequences before the query's; None if there is one sequence a row.
        num_blocks: selection blocks that the longest possible sequence has.
    """

    here_BT: Tensor  # noqa: N815 - a shape suffix
    start_BT: Tensor  # noqa: N815
    ends_BE: Tensor  # noqa: N815
    skip_BT: Tensor | None  # noqa: N815
    num_blocks: int

    def visible(self) -> Tensor:
        """Return which entries a query sees, BTE: those of its own sequence that are complete."""
        ends_B1E = self.ends_BE[:, None]
        return (ends_B1E <= self.here_BT[..., None]) & (ends_B1E >= self.start_BT[..., None])

    def first_keys(self, picks_BKTn: Tensor, blocks: Blocks) -> Tensor:
        """Return the index of the first key of each picked block, BKTn; -1 for none."""
        return torch.where(picks_BKTn < 0, -1, picks_BKTn * blocks.select_block + self.start_BT[:, None, :, None])

    def rows(self, first: int, last: int) -> Layout:
        """Return the layout of the queries from `first` to before `last`."""
        skip = None if self.skip_BT is None else self.skip_BT[:, first:last]
        return Layout(self.here_BT[:, first:last], self.start_BT[:, first:last], self.ends_BE, skip, self.num_blocks)


def layout_of(blocks: Blocks, here_BT: Tensor, num_entries: int, num_keys: int) -> Layout:
    """Return the layout of queries at these places of one sequence a row."""
    ends_BE = torch.arange(num_entries, device=here_BT.device)[None] * blocks.compress_stride
    ends_BE = ends_BE + (blocks.compress_block - 1)
    return Layout(here_BT, torch.zeros_like(here_BT), ends_BE, None, blocks.num_blocks(num_keys))


def packed_layout(blocks: Blocks, sequence_ids_BT: Tensor, positions: Positions) -> Layout:
    """Return the layout of packed rows: blocks of each sequence count from its own first token.

    A sequence is a run of equal ids. A row of T tokens has at most T // stride entries, whatever its sequences are.
    """
    num_tokens = sequence_ids_BT.shape[1]
    here_1T = torch.arange(num_tokens, device=sequence_ids_BT.device)[None]

    def starts() -> Tensor:
        begins = F.pad(sequence_ids_BT[:, 1:] != sequence_ids_BT[:, :-1], (1, 0))
        return (begins * here_1T).cummax(-1).values

    def is_end() -> Tensor:
        past_first = here_1T - start_BT - (blocks.compress_block - 1)
        return (past_first >= 0) & (past_first % blocks.compress_stride == 0)

    def ends() -> Tensor:
        return torch.where(is_end_BT, here_1T, _NEVER).sort(-1).values[:, : num_tokens // blocks.compress_stride]

    def skips() -> Tensor:
        return (is_end_BT.cumsum(-1) - is_end_BT.long()).gather(-1, start_BT)

    start_BT = _made_once(positions, ("nsa starts", blocks), starts)
    is_end_BT = _made_once(positions, ("nsa is end", blocks), is_end)
    ends_BE = _made_once(positions, ("nsa ends", blocks), ends)
    skip_BT = _made_once(positions, ("nsa skips", blocks), skips)
    return Layout(here_1T, start_BT, ends_BE, skip_BT, blocks.num_blocks(num_tokens))


def entry_probabilities(q_BNTH: Tensor, k_BKEH: Tensor, visible_BTE: Tensor, scale: float) -> Tensor:
    """Return the attention of each query to the compressed entries, BKGTE in float32; all 0 where it sees none."""
    batch, new = q_BNTH.shape[0], q_BNTH.shape[2]
    q_BKXH = q_BNTH.reshape(batch, k_BKEH.shape[1], -1, q_BNTH.shape[-1])  # X: group × tokens
    scores = (q_BKXH @ k_BKEH.transpose(2, 3) * scale).unflatten(2, (-1, new))
    scores_BKGTE = scores.to(torch.promote_types(scores.dtype, torch.float32))
    visible = visible_BTE[:, None, None]
    # Not -inf: a row that sees nothing would become NaN, and its gradient too.
    lowest = torch.finfo(scores_BKGTE.dtype).min
    weights_BKGTE: Tensor = scores_BKGTE.masked_fill(~visible, lowest).softmax(-1) * visible
    return weights_BKGTE


@torch.no_grad()
def choose_blocks(probabilities_BKGTE: Tensor, layout: Layout, blocks: Blocks) -> Tensor:
    """Return the blocks that each token and key/value head selects, BKTn: numbers within its sequence, -1 for none."""
    scores_BKTJ = block_scores(probabilities_BKGTE.sum(2), layout, blocks)
    own_BKT1 = ((layout.here_BT - layout.start_BT) // blocks.select_block)[:, None, :, None]
    own_BKT1 = own_BKT1.expand(*scores_BKTJ.shape[:3], 1)
    picks = [torch.zeros_like(own_BKT1)]
    picks += [torch.where(own_BKT1 >= least, own_BKT1 - back, -1) for least, back in ((2, 1), (1, 0))]
    number_J = torch.arange(scores_BKTJ.shape[-1], device=scores_BKTJ.device)
    free_BKTJ = (number_J >= 1) & (number_J <= own_BKT1 - 2)
    scores_BKTJ = scores_BKTJ.masked_fill(~free_BKTJ, -1.0)  # probabilities are not below 0
    for _ in range(blocks.num_selected - NUM_FORCED):
        best_BKT1 = scores_BKTJ.argmax(-1, keepdim=True)  # the first of equals, as torch promises
        picks.append(torch.where(scores_BKTJ.gather(-1, best_BKT1) >= 0, best_BKT1, -1))
        scores_BKTJ.scatter_(-1, best_BKT1, -1.0)
    return torch.cat(picks, -1)


def block_scores(probabilities_BKTE: Tensor, layout: Layout, blocks: Blocks) -> Tensor:
    """Return each block's score, BKTJ: the probabilities of the entries that overlap it. J: selection blocks.

    An entry counts once for each stride of its tokens that lies in the block: the paper's rule for blocks of two sizes.
    """
    if layout.skip_BT is not None:
        probabilities_BKTE = _from_own_sequence(probabilities_BKTE, layout.skip_BT)
    num_entries, stride = probabilities_BKTE.shape[-1], blocks.compress_stride
    num_strides = layout.num_blocks * (blocks.select_block // stride)
    strides = probabilities_BKTE.new_zeros(*probabilities_BKTE.shape[:-1], num_strides)
    for shift in range(blocks.compress_block // stride):
        kept = max(0, min(num_entries, num_strides - shift))  # what is left out lies beyond all tokens
        strides[..., shift : shift + kept] += probabilities_BKTE[..., :kept]
    scores_BKTJ: Tensor = strides.unflatten(-1, (layout.num_blocks, -1)).sum(-1)
    return scores_BKTJ


def _from_own_sequence(probabilities_BKTE: Tensor, skip_BT: Tensor) -> Tensor:
    """Return them counted from the first entry of the query's own sequence.

    Beyond the last entry stands that one again: there no block begins that a token could choose.
    """
    num_entries = probabilities_BKTE.shape[-1]
    if not num_entries:
        return probabilities_BKTE
    index_BTE = skip_BT[..., None] + torch.arange(num_entries, device=skip_BT.device)
    index_BKTE = index_BTE.clamp(max=num_entries - 1)[:, None].expand(probabilities_BKTE.shape)
    return probabilities_BKTE.gather(-1, index_BKTE)


def _made_once(positions: Positions, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
    made = positions.once(key, make)
    assert made is not None
    return made
