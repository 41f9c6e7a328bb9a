"""The one decoder: token vectors, blocks of mixer and mlp, a norm and a head.

    tokens ─ embed ─┬───────────┬─ … num_layers … ─ norm ─ head ─ logits
                    ├ norm mixer┤
                    ├ norm mlp ─┤

What an ablation changes is one slot: the mixer, the position encoding or the mlp; or the design of the blocks, which a
preset says through the shape's fields. Letters as in `models/mixers/_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.models.block import Block
from efficientllm.models.cross_entropy import mean_cross_entropy, sum_cross_entropy
from efficientllm.models.decoder_state import DecoderState
from efficientllm.models.linear import Embedding, Linear
from efficientllm.models.mixers._contract import Mixer, State
from efficientllm.models.mlp._contract import Mlp
from efficientllm.models.norm import make_norm
from efficientllm.models.part import Part, compute_dtype
from efficientllm.models.position._contract import Position
from efficientllm.models.shape import Shape
from efficientllm.precision.cache._contract import CacheCoder


class Decoder(nn.Module):
    """A language model.

    Attributes:
        shape: its counts.
        position: the position encoding, one for all layers.
        adjusted: what `match` changed in it, see `ModelFacts.adjusted`.
        checkpoints_blocks: whether the backward pass computes each layer once more instead of keeping what is in it.
        cache_coder: number format of what is cached, None for that of the activations; `code_cache` sets it.
    """

    checkpoints_blocks = False
    cache_coder: CacheCoder | None = None

    def __init__(
        self,
        shape: Shape,
        make_mixer: Callable[[], Mixer],
        make_position: Callable[[int], Position],
        make_mlp: Callable[[], Mlp],
    ) -> None:
        super().__init__()
        self.shape = shape
        self.adjusted: dict[str, float] = {}
        self.embed = Embedding(shape.vocab_tokens, shape.width)
        self.blocks = nn.ModuleList(Block(shape, make_mixer(), make_mlp()) for _ in range(shape.num_layers))
        self.position = make_position(self.block(0).mixer.rotary_dim)
        self.norm = make_norm(shape)
        self.head = None if shape.tie_embeddings else Linear(shape.width, shape.vocab_tokens, makes_logits=True)

    def block(self, number: int) -> Block:
        """Return a layer."""
        block = self.blocks[number]
        assert isinstance(block, Block)
        return block

    def parts(self) -> Iterator[Part]:
        """Yield mixer and mlp of each layer."""
        for number in range(self.shape.num_layers):
            block = self.block(number)
            yield from (block.mixer, block.mlp)

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix, VD: the embedding's own where they are tied."""
        return self.embed.weight if self.head is None else self.head.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return self.embed.weight.dtype

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        state: DecoderState | None = None,
        sequence_ids_BT: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Return logits, BTV, or B1V of the last token where `last_only`.

        Args:
            tokens_BT: token ids.
            positions_BT: their positions (one row serves all); by default they follow the state, or count from 0,
                or count from 0 in each packed sequence.
            state: what was remembered; the tokens are added to it.
            sequence_ids_BT: tokens with different ids never see each other; not together with a state.
            last_only: whether the head sees the last token only.
        """
        hidden_BTD = self.hidden(tokens_BT, positions_BT, state, sequence_ids_BT)
        return F.linear(hidden_BTD[:, -1:] if last_only else hidden_BTD, self.head_weight)

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        state: DecoderState | None = None,
        sequence_ids_BT: Tensor | None = None,
        most_sequences: int = 0,
    ) -> Tensor:
        """Return the normalised residual stream BTD that the head reads; arguments as in `forward` and `losses`.

        Raises:
            Unsupported: more tokens than the position encoding has positions.
        """
        if self.position.max_positions:
            self._check_length(tokens_BT, positions_BT, state, sequence_ids_BT)
        out_BTD = self.run(tokens_BT, positions_BT, state, sequence_ids_BT, most_sequences)
        if state is not None:
            state.advance(tokens_BT.shape[1])
        return out_BTD

    def run(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        state: DecoderState | None = None,
        sequence_ids_BT: Tensor | None = None,
        most_sequences: int = 0,
    ) -> Tensor:
        """Do what `hidden` does on the device, and leave the host's count of tokens: the part that can be captured."""
        if positions_BT is None:
            positions_BT = self._positions(tokens_BT, state, sequence_ids_BT)
        x_BTD = self.position.embed(self.embed(tokens_BT), positions_BT)
        positions = self.position.at(positions_BT, compute_dtype(self.embed.weight), most_sequences)
        again = self.checkpoints_blocks and torch.is_grad_enabled()
        for number in range(self.shape.num_layers):
            block = self.block(number)
            call = block.checkpointed if again else block
            x_BTD = call(x_BTD, positions, None if state is None else state.layers[number], sequence_ids_BT)
        if state is not None:
            state.next_1 += tokens_BT.shape[1]
        out_BTD: Tensor = self.norm(x_BTD)
        return out_BTD

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, sequence_ids_BT: Tensor | None = None) -> Tensor:
        """Return the mean loss in nats over the targets that are not -100, a float32 scalar with gradients."""
        return self.losses(tokens_BT, targets_BT, sequence_ids_BT)[0]

    def losses(
        self, tokens_BT: Tensor, targets_BT: Tensor, sequence_ids_BT: Tensor | None = None, most_sequences: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss, and what its parts want added to it in training, None if nothing.

        The first is what is reported and judged; their sum is what is differentiated.

        Args:
            tokens_BT: token ids.
            targets_BT: the token that each one should tell, or -100 where none counts.
            sequence_ids_BT: tokens with different ids never see each other.
            most_sequences: all rows together have no more runs of equal ids than this; with it attention on
                CUDA computes none of the pairs that do not see each other.
        """
        hidden_BTD = self.hidden(tokens_BT, sequence_ids_BT=sequence_ids_BT, most_sequences=most_sequences)
        loss = mean_cross_entropy(hidden_BTD.flatten(0, 1), self.head_weight, targets_BT.flatten())
        extra = [value for part in self.parts() for value in part.losses().values()]
        return loss, torch.stack(extra).sum() if extra else None

    def after_step(self) -> None:
        """Let the parts do what is due after the optimiser's step."""
        for part in self.parts():
            part.after_step()

    @torch.no_grad()
    def loss_sum(
        self, tokens_BT: Tensor, targets_BT: Tensor, sequence_ids_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the summed loss in nats (float64) and the number of targets that are not -100, for evaluation."""
        hidden_BTD = self.hidden(tokens_BT, state=self.scoring_state(*tokens_BT.shape), sequence_ids_BT=sequence_ids_BT)
        return sum_cross_entropy(hidden_BTD.flatten(0, 1), self.head_weight, targets_BT.flatten())

    def allocate(self, batch: int, max_tokens: int, dtype: torch.dtype | None = None) -> DecoderState:
        """Return an empty state with room for `max_tokens` tokens in each of `batch` sequences."""
        return DecoderState(self._layer_states(batch, max_tokens, dtype or self.dtype, self.device), self.device)

    def code_cache(self, coder: CacheCoder | None) -> None:
        """Hold what is cached in a number format from now on; None for that of the activations.

        Raises:
            Unsupported: the mixer has nothing that could be held so.
            UserError: the format's options do not fit the widths of what is cached.
        """
        if coder is not None:
            for number in range(self.shape.num_layers):  # refused here, not at the first batch
                self.block(number).mixer.allocate_coded(coder, 1, 1, self.dtype, torch.device("meta"))
        self.cache_coder = coder

    def scoring_state(self, batch: int, num_tokens: int) -> DecoderState | None:
        """Return what a text read at once must be given so that each token sees what it would see in decoding.

        None where the cache holds what was computed; else an empty state: what its format loses shows through it.
        """
        return None if self.cache_coder is None else self.allocate(batch, num_tokens)

    def coded_bytes_per_token(self) -> float | None:
        """Return the growth of a coded cache a token and a sequence, over all layers; None if it is not coded."""
        if self.cache_coder is None:
            return None
        return sum(x.bytes_per_token() for x in self._layer_states(1, 1, self.dtype, torch.device("meta")))

    def step(self, tokens_B: Tensor, state: DecoderState) -> Tensor:
        """Add one token to each sequence and return the logits of the next, BV."""
        return self.forward(tokens_B[:, None], state=state)[:, 0]

    def _layer_states(self, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device) -> list[State]:
        mixers, coder = [self.block(number).mixer for number in range(self.shape.num_layers)], self.cache_coder
        if coder is None:
            return [mixer.allocate(batch, max_tokens, dtype, device) for mixer in mixers]
        return [mixer.allocate_coded(coder, batch, max_tokens, dtype, device) for mixer in mixers]

    def _check_length(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None,
        state: DecoderState | None,
        sequence_ids_BT: Tensor | None,
    ) -> None:
        if positions_BT is None and sequence_ids_BT is None:
            self.position.check_length(tokens_BT.shape[1] + (0 if state is None else state.length))
        elif not torch.compiler.is_compiling():
            known_BT = self._positions(tokens_BT, state, sequence_ids_BT) if positions_BT is None else positions_BT
            self.position.check_length(int(known_BT.max()) + 1)

    def _positions(self, tokens_BT: Tensor, state: DecoderState | None, sequence_ids_BT: Tensor | None) -> Tensor:
        new = tokens_BT.shape[1]
        if state is not None:
            # next_1 is counted on while the layers read their positions, hence never handed out itself
            return (state.next_1 + torch.arange(new, device=tokens_BT.device))[None]
        index_1T = torch.arange(new, device=tokens_BT.device)[None]
        if sequence_ids_BT is None:
            return index_1T
        starts = F.pad(sequence_ids_BT[:, 1:] != sequence_ids_BT[:, :-1], (1, 0))
        return index_1T - (starts * index_1T).cummax(-1).values
