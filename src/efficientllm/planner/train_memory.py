"""The most memory that a step of training takes, as torch's allocator counts it, from shapes and settings alone.

It is the largest of a few moments. Each is a sum of the same five parts, and each part is counted: there is no constant
and no rest. Between two steps only weights and the optimiser's state are there, and both are there all the time.

    moment        gradients                  activations                          logits
    loss          of earlier passes          of all layers                        a chunk, the gradients of its product
    last layer    … and of the head          of all layers, and work in one       -
    first layer   all                        of one layer, and work in it         -
    embedding     all, the table's twice     -                                    -
    step          all                        -                                    -

"Of a layer" is what it keeps from its forward to its backward pass (`Block.saved_bytes`: activations, and the weights
once more in autocast's type); "work" is what its backward pass holds besides (`Block.working_bytes`). The table of
token vectors counts twice where it is the head too: both gradients are added at the very end. Under `full`
checkpointing a layer keeps what comes in, and all else is there once, in the layer that is being computed again.
Sharded or offloaded training changes where weights, gradients and state lie (`placement.py`).

In fine-tuning, frozen weights have no gradient, and what lies before the first trained layer keeps nothing; the head's
gradient is missing where it is frozen. Adapters are part of the layers' own counts (`models/adapted.py`).

Not counted: what the allocator reserves beyond what tensors hold (fragmentation; `reserved`), what it adds to a single
tensor (up to 512 bytes, seldom up to 1 MiB), and the workspaces that cuBLAS keeps (8 to 32 MiB).
"""

from __future__ import annotations

from efficientllm.models.block import Block
from efficientllm.models.cross_entropy_costs import loss_bytes
from efficientllm.models.decoder import Decoder
from efficientllm.models.forward_pass import FLOAT, ForwardPass, copied_bytes
from efficientllm.models.norm import norm_bytes
from efficientllm.planner.placement import Placement, first_trained, place
from efficientllm.records.prediction import MemoryPrediction
from efficientllm.records.training_settings import TrainingSettings

#: Bytes of a token's number and of its target's.
_TOKEN_BYTES = 16


def moments(
    decoder: Decoder, num_layers: int, settings: TrainingSettings, ahead: ForwardPass
) -> tuple[MemoryPrediction, ...]:
    """Return what each moment of a step takes, from the second step on.

    Args:
        decoder: a decoder of all layers or of one, on any device (`meta` takes no memory).
        num_layers: layers of the decoder that is meant; where one is there, all are like it.
        settings: of the training.
        ahead: one forward pass of one rank.

    Raises:
        NotImplementedError: a part does not say what it keeps.
    """
    return _Step(decoder, num_layers, settings, ahead).moments()


def all_saved_bytes(decoder: Decoder, settings: TrainingSettings, ahead: ForwardPass) -> float:
    """Return what is kept for the backward pass once the norm before the head has run, tokens and targets left out."""
    step = _Step(decoder, len(decoder.blocks), settings, ahead)
    return step.of_all_layers() + norm_bytes(decoder.norm, ahead)


class _Step:
    def __init__(self, decoder: Decoder, num_layers: int, settings: TrainingSettings, ahead: ForwardPass) -> None:
        self.decoder, self.num_layers, self.settings, self.ahead = decoder, num_layers, settings, ahead
        self.width = decoder.shape.width
        self.place: Placement = place(decoder, num_layers, settings, ahead)
        self.again = settings.activation_checkpointing == "full"
        first, there = first_trained(decoder), len(decoder.blocks)
        begins = not decoder.embed.weight.requires_grad
        self.num_kept = num_layers - first if there == num_layers else num_layers
        self.first, self.last = decoder.block(first), decoder.block(there - 1)
        each = [block_saved_bytes(decoder.block(n), settings, ahead) for n in range(first + 1, there)]
        self.saved_first = block_saved_bytes(self.first, settings, ahead, begins=begins)
        rest = sum(each) if there == num_layers else (num_layers - 1) * block_saved_bytes(self.first, settings, ahead)
        self.saved_all = self.saved_first + rest
        self.saved_last = each[-1] if each else self.saved_first
        self.incoming = ahead.residuals(self.width)

    def moments(self) -> tuple[MemoryPrediction, ...]:
        """Return all of them, in order."""
        table = self.decoder.head_weight
        loss = loss_bytes(self.ahead, self.width, table.shape[0], trains_head=table.requires_grad)
        place, layers = self.place, self.of_all_layers()
        normed = norm_bytes(self.decoder.norm, self.ahead)
        head = normed + self.incoming + self._cached_copies()  # what the last norm gave is the loss's to read
        head_gradient = place.table_gradient + place.earlier_gradients
        one = self.saved_first + (self.incoming if self.again else 0.0)
        all_gradients = max(place.all_gradients, place.earlier_gradients) + place.held_table_gradient
        in_first_layer = all_gradients + place.layer_gradient - place.missing_gradient
        return (
            self._at("loss", place.earlier_gradients, layers + head, loss.forward),
            self._at("loss", place.earlier_gradients, layers + normed, loss.backward),
            self._at("last layer", head_gradient, layers + self._work()),
            self._at("first layer", in_first_layer, self._shared() + one + self.first.working_bytes(self.ahead)),
            self._at("embedding", all_gradients + place.second_table_gradient, self.incoming),
            self._at("step", place.all_gradients, 0.0),
        )

    def _at(self, moment: str, gradients: float, activations: float, logits: float = 0.0) -> MemoryPrediction:
        return MemoryPrediction(
            moment=moment,
            weights_bytes=self.place.weights,
            optimizer_bytes=self.place.optimizer,
            gradients_bytes=gradients,
            activations_bytes=activations,
            logits_bytes=logits,
        )

    def _shared(self) -> float:
        """Return what belongs to no layer: tokens, targets, angles or biases of the positions, the mask of packed rows.

        On CUDA packed rows have none: flash attention takes where each sequence begins.
        """
        ahead = self.ahead
        mask = ahead.numbers(ahead.tokens) if ahead.packed and not ahead.accelerator else 0.0
        ids = ahead.num_tokens * FLOAT if ahead.packed else 0.0
        return ahead.num_tokens * _TOKEN_BYTES + ids + mask + self.decoder.position.saved_bytes(ahead)

    def of_all_layers(self) -> float:
        """Return what all layers keep, and what belongs to none of them."""
        return self._shared() + (self.num_kept * self.incoming if self.again else self.saved_all)

    def _work(self) -> float:
        """Return what the backward pass of a layer holds; under `full` also what it has computed again."""
        return self.last.working_bytes(self.ahead) + (self.saved_last if self.again else 0.0)

    def _cached_copies(self) -> float:
        """Return the copies of weights that autocast keeps to the end of an eager forward pass, and nobody else.

        Where layers are to leave nothing behind, the training loop has it make them anew (`TrainLoop.autocast`).
        """
        anew = self.again or self.settings.offload == "weights"
        if self.ahead.compiled or anew or self.settings.activation_checkpointing == "none":
            return 0.0
        return self.num_layers * copied_bytes(self.last.mlp, self.ahead, stacked=False)


def block_saved_bytes(block: Block, settings: TrainingSettings, ahead: ForwardPass, *, begins: bool = False) -> float:
    """Return what a layer keeps: without the weights' copies where these are gathered in their type anyway."""
    copies = 0.0 if settings.ranks == 1 else copied_bytes(block.mixer, ahead)
    if settings.ranks > 1 and not ahead.recomputes:
        copies += copied_bytes(block.mlp, ahead)
    return block.saved_bytes(ahead, begins=begins) - copies
