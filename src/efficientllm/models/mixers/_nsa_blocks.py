"""Where NSA's blocks lie, and how many tokens each of its branches sees: whole numbers only, no torch.

A token at place p of its sequence (counted from 0) sees

    compressed   entries 0 … (p + 1 - compress_block) // compress_stride; entry i stands for the `compress_block`
                 tokens from i * compress_stride on, and exists once the last of them does
    selected     of the blocks of `select_block` tokens up to its own: the first, its own, the one before, and so many
                 of the others that `num_selected` come together; none after p
    sliding      the last `window` tokens, itself included
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from efficientllm.errors import UserError
from efficientllm.models.mixers._contract import causal_pairs

#: Blocks that are always selected: the first, the token's own, and the one before.
NUM_FORCED = 3


@dataclass(frozen=True)
class Blocks:
    """The options of the mixer, checked.

    Attributes:
        window: tokens of the sliding branch.
        select_block: tokens of a block that is selected as a whole.
        num_selected: blocks a token selects, the three that are always in among them.
        compress_block: tokens that one compressed entry stands for.
        compress_stride: tokens from one compressed entry to the next.
    """

    window: int
    select_block: int
    num_selected: int
    compress_block: int
    compress_stride: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65536:
                raise UserError(f"option {field.name} of mixer nsa is {value!r}. Give a whole number from 1 to 65536.")
        if self.num_selected < NUM_FORCED:
            raise UserError(
                f"option num_selected of mixer nsa is {self.num_selected}. Give {NUM_FORCED} or more: "
                "the first block, a token's own and the one before are always selected."
            )
        for name in ("compress_block", "select_block"):
            if getattr(self, name) % self.compress_stride:
                raise UserError(
                    f"option {name} {getattr(self, name)} of mixer nsa is no multiple of compress_stride "
                    f"{self.compress_stride}. Choose one that is."
                )

    @property
    def reach(self) -> int:
        """Tokens of the longest sequence in which every token selects all blocks there are."""
        return self.num_selected * self.select_block

    def num_entries(self, num_tokens: int) -> int:
        """Return how many compressed entries so many tokens have completed.

        >>> [Blocks(128, 64, 4, 32, 16).num_entries(n) for n in (31, 32, 47, 48)]
        [0, 1, 1, 2]
        """
        return max(0, (num_tokens - self.compress_block) // self.compress_stride + 1)

    def num_blocks(self, num_tokens: int) -> int:
        """Return how many selection blocks so many tokens have begun."""
        return -(-num_tokens // self.select_block)

    def selected_tokens(self, place: int) -> int:
        """Return how many tokens the one at this place selects, itself included."""
        others = min(self.num_selected - 1, place // self.select_block)
        return others * self.select_block + place % self.select_block + 1

    def entry_pairs(self, new_tokens: int, context: int = 0) -> int:
        """Return the pairs of a new token and a compressed entry that it sees."""
        return self._entry_pairs(context + new_tokens) - self._entry_pairs(context)

    def selected_pairs(self, new_tokens: int, context: int = 0) -> int:
        """Return the pairs of a new token and a token that it selects."""
        return self._selected_pairs(context + new_tokens) - self._selected_pairs(context)

    def window_pairs(self, new_tokens: int, context: int = 0) -> int:
        """Return the pairs of a new token and a token of its window."""
        return causal_pairs(new_tokens, context, self.window)

    def _entry_pairs(self, num_tokens: int) -> int:
        """Return the same for the first tokens: stride after stride of them sees one entry more."""
        seeing = max(0, num_tokens - self.compress_block + 1)
        strides, rest = divmod(seeing, self.compress_stride)
        return self.compress_stride * strides * (strides + 1) // 2 + rest * (strides + 1)

    def _selected_pairs(self, num_tokens: int) -> int:
        """Return the same for the first tokens: those within a token's own block, and whole blocks before it."""
        size, most = self.select_block, self.num_selected - 1
        full, rest = divmod(num_tokens, size)
        growing = min(full, most)
        others = growing * (growing - 1) // 2 + (full - growing) * most  # whole blocks, summed over the full ones
        own = full * size * (size + 1) // 2 + rest * (rest + 1) // 2
        return own + size * (size * others + rest * min(full, most))


def rows_of(group: int) -> int:
    """Return the rows to which a group of query heads is padded for the tensor cores.

    >>> rows_of(7), rows_of(16), rows_of(20)
    (16, 16, 32)
    """
    return max(16, 1 << (group - 1).bit_length())
