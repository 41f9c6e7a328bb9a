"""What every workload that trains can be told: the optimiser and its rates, and what saves memory."""

from __future__ import annotations

from typing import Literal

from efficientllm.errors import UserError
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import Count, Fraction, ModelSettings, NonNegative, Positive, Rows, Steps

Recompute = Literal["none", "selective", "full"]
Offload = Literal["none", "optimizer", "weights"]
WeightsDtype = Literal["float32", "bfloat16"]


class TrainingSettings(ModelSettings, frozen=True, kw_only=True):
    """What training can be told.

    Attributes:
        tokens: the budget; the run ends with the step that reaches it.
        judged_on: held-out text that judges: `test`, or `valid`, which shares nothing with it: what a setting is chosen
            by must not be what it is judged by.
        micro_batch: rows in one forward pass of one rank.
        accumulation: forward passes in one step.
        global_batch: rows in one step over all ranks, whatever micro_batch and ranks are: it decides how many passes
            a step takes; 0: as many as `accumulation` says.
        ranks: processes that train one model together, one device each, its weights sharded (FSDP2).
        weights_dtype: number format of the weights, their gradients and the optimiser's state; with `bfloat16` (pure
            bf16) `dtype` must be the same.
        activation_checkpointing: what the backward pass computes again instead of keeping it: nothing, the wide
            layers of the mlp (`selective`), or all of a block but what goes into it (`full`).
        offload: what lives in the host's memory and comes to the device when it is due: nothing, the optimiser's state,
            or that and the weights with their gradients.
        optimizer: who changes the weights.
        schedule: how the rate goes on after its rise.
        learning_rate: the peak; `warmup_ratio` of the steps rise to it, the schedule ends at `final_lr_ratio` of it.
        weight_decay, beta1, beta2: of AdamW.
        clip_norm: global gradient norm above which gradients are scaled; 0 turns it off.
        divergence_factor: training ends as `diverged` when the loss exceeds so many times its first value.
        evaluate_every: steps between two looks at held-out text; 0 for none before the end.
        evaluate_tokens: held-out tokens of such a look.
        checkpoint_every: steps between two checkpoints, from which a run that was stopped goes on exactly; 0 for none.
    """

    tokens: Count = 1_000_000
    judged_on: Literal["test", "valid"] = "test"
    micro_batch: Rows = 8
    accumulation: Rows = 1
    global_batch: Steps = 0
    ranks: Rows = 1
    weights_dtype: WeightsDtype = "float32"
    activation_checkpointing: Recompute = "none"
    offload: Offload = "none"
    optimizer: Choice = Choice(name="adamw")
    schedule: Choice = Choice(name="cosine")
    learning_rate: Positive = 1e-3
    warmup_ratio: Fraction = 0.05
    final_lr_ratio: Fraction = 0.1
    weight_decay: NonNegative = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    clip_norm: NonNegative = 1.0
    divergence_factor: Positive = 3.0
    evaluate_every: Steps = 0
    evaluate_tokens: Count = 8192
    checkpoint_every: Steps = 0

    def __post_init__(self) -> None:
        """Fill the open slots, and see whether the numbers go together.

        Raises:
            UserError: numbers that do not go together.
        """
        super().__post_init__()
        together = self.micro_batch * self.ranks
        if self.global_batch and self.global_batch % together:
            raise UserError(
                f"global_batch {self.global_batch} is no multiple of micro_batch {self.micro_batch} × ranks "
                f"{self.ranks}. Choose a divisor of it for micro_batch."
            )
        if self.global_batch and self.accumulation not in (1, self.global_batch // together):
            raise UserError(
                f"global_batch {self.global_batch} and accumulation {self.accumulation} contradict each other at "
                f"micro_batch {self.micro_batch} × ranks {self.ranks}. Leave one of them out."
            )
        if self.weights_dtype != "float32" and self.dtype != self.weights_dtype:
            raise UserError(f"weights_dtype {self.weights_dtype} needs dtype {self.weights_dtype}, not {self.dtype}.")

    @property
    def passes(self) -> int:
        """Forward passes of each rank in one step."""
        if self.global_batch:
            return self.global_batch // (self.micro_batch * self.ranks)
        return self.accumulation

    @property
    def rows_per_step(self) -> int:
        """Rows of one step over all ranks."""
        return self.micro_batch * self.passes * self.ranks
