"""One training step after another, to a token budget."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from efficientllm.devices._contract import Device
from efficientllm.errors import Diverged
from efficientllm.models import expert_load
from efficientllm.models.decoder import Decoder
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.blocks import prepare_blocks
from efficientllm.training.choose import load_optimizer, load_schedule
from efficientllm.training.clipping import clipped_step
from efficientllm.training.offload import HostOptimizer
from efficientllm.training.optimizers._contract import set_rate
from efficientllm.training.parallel import Shards
from efficientllm.training.ranks import ALONE, Ranks
from efficientllm.training.schedules._contract import learning_rate
from efficientllm.training.streaming import StreamedLayers
from efficientllm.training.tokens import MicroBatch, StepBatches


class TrainLoop:
    """An optimiser and a schedule over the batches it is given; the loss of each step is checked.

    Several ranks take each its rows of a step and its share of the weights; loss and figures are then means over them.

    Weights in float32 stay so: with another dtype the forward pass runs under autocast. Auxiliary losses of the model's
    parts are differentiated with the loss, and stay out of what is returned and checked. With `offload: weights` the
    decoder comes in the host's memory. `rate_factor` is as in `parameter_groups`.

    Attributes:
        watched: (name, unit) -> what else the last step said: `auxiliary_loss`, `expert_load_max_ratio` (see
            `models/expert_load.py`), each where the model has it.
    """

    def __init__(
        self,
        decoder: Decoder,
        settings: TrainingSettings,
        batches: StepBatches,
        device: Device,
        ranks: Ranks = ALONE,
        rate_factor: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        self.decoder, self.settings = decoder, settings
        self._device, self._batches = device, batches
        # adapters are float32 over a base in bf16: products take the settings' type all the same
        self._one_dtype = all(p.dtype == getattr(torch, settings.dtype) for p in decoder.parameters())
        prepare_blocks(decoder, settings)
        self._streamed = StreamedLayers(decoder, device.torch_device()) if settings.offload == "weights" else None
        self.shards = Shards(decoder, settings, ranks)
        self._rate = functools.partial(
            learning_rate, load_schedule(settings), settings.learning_rate, settings.warmup_ratio
        )
        homes = self._streamed.homes if self._streamed else None
        self._optimizer = load_optimizer(settings, decoder, homes, rate_factor)
        self.num_steps = max(1, settings.tokens // (settings.rows_per_step * settings.sequence_tokens))
        self.steps_done = 0
        self.first_loss = math.nan
        self.watched: dict[tuple[str, str], float] = {}

    @property
    def tokens_seen(self) -> int:
        """Tokens trained on so far, by all ranks."""
        return self.steps_done * self.settings.rows_per_step * self.settings.sequence_tokens

    @property
    def steps_left(self) -> int:
        """Steps until the budget is used."""
        return self.num_steps - self.steps_done

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What changes the weights, or those that stand for them in the host's memory."""
        held = self._optimizer
        return held.inner if isinstance(held, HostOptimizer) else held

    @property
    def hosts(self) -> Mapping[torch.nn.Parameter, torch.Tensor]:
        """Parameter -> the tensor in the host's memory that counts in its place, where the optimiser is there."""
        return self._optimizer.hosts if isinstance(self._optimizer, HostOptimizer) else {}

    def go_on(self, steps_done: int, first_loss: float) -> None:
        """Count on from there; weights and what the optimiser remembers have been put in place (`checkpoint.py`)."""
        self.steps_done, self.first_loss = steps_done, first_loss

    def step(self) -> float:
        """Take one optimiser step; return its mean loss in nats a token, without auxiliary losses.

        Raises:
            Diverged: the loss is not finite, or far above where it began.
        """
        set_rate(self._optimizer.param_groups, self._rate(self.steps_done, self.num_steps))
        losses = self._gradients()
        self._change_weights()
        self._optimizer.zero_grad(set_to_none=True)
        seen = self._seen(losses)
        self.decoder.after_step()
        self.steps_done += 1
        if self.steps_left:
            self._batches.fetch(self.steps_done)  # while the device is still at work on this step
        means = self.shards.ranks.mean_(torch.stack(list(seen.values())))
        value, *others = means.tolist()  # all that is read of the device, at once
        self.watched = dict(zip(list(seen)[1:], others, strict=True))
        self._check(value)
        return float(value)

    def rehearse(self) -> None:
        """Do all of the next step that ranks talk about, and change nothing: no weight moves, no token counts."""
        self._gradients()
        self._optimizer.zero_grad(set_to_none=True)
        for part in self.decoder.parts():
            for count in part.step_counts():
                count.zero_()

    def _gradients(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Leave the step's gradients, those that lie over ranks clipped; return the losses of its passes."""
        micro_batches = self._batches.of(self.steps_done)
        losses = []
        for number, batch in enumerate(micro_batches, start=1):
            self.shards.before_pass(last=number == len(micro_batches))
            losses.append(self._forward_backward(batch))
        self.shards.after_passes(self.settings.clip_norm)
        return losses

    def _change_weights(self) -> None:
        """Let the optimiser step; alone, it scales the gradients while it reads them."""
        if isinstance(self._optimizer, HostOptimizer) or not self.shards.ranks.alone:
            self._optimizer.step()
        else:
            clipped_step(self._optimizer, self.settings.clip_norm)

    def _forward_backward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return a pass's share of the step's loss, and of its auxiliary losses."""
        with self.autocast():
            loss, extra = self.decoder.losses(batch.tokens, batch.targets, batch.sequence_ids, batch.most_sequences)
        loss, extra = loss * batch.share, None if extra is None else extra / self.settings.passes
        (loss if extra is None else loss + extra).backward()
        return loss.detach(), None if extra is None else extra.detach()

    def _seen(self, losses: list[tuple[torch.Tensor, torch.Tensor | None]]) -> dict[tuple[str, str], torch.Tensor]:
        """Return the loss first, then what else there is of this step, as scalars on the device."""
        seen = {("loss", "nats/token"): torch.stack([loss for loss, _ in losses]).sum()}
        extras = [extra for _, extra in losses if extra is not None]
        if extras:
            seen["auxiliary_loss", "nats/token"] = torch.stack(extras).sum()
        ratio = expert_load.step_max_ratio(self.decoder)
        if ratio is not None:
            seen["expert_load_max_ratio", "factor"] = ratio
        return seen

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the forward pass: autocast to the settings' dtype, nothing where the weights have it.

        Autocast would keep its copies of all weights to the end of the forward pass; where layers are to leave nothing
        behind, it makes them anew.
        """
        settings = self.settings
        if self._one_dtype:
            return contextlib.nullcontext()
        keeps = settings.activation_checkpointing != "full" and settings.offload != "weights"
        kind, dtype = self._device.torch_device().type, getattr(torch, settings.dtype)
        return torch.autocast(kind, dtype=dtype, cache_enabled=keeps)

    def at_rest(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which all weights can be read and filled, wherever they live, but not computed with."""
        return contextlib.nullcontext() if self._streamed is None else self._streamed.at_rest()

    def _check(self, loss: float) -> None:
        if self.steps_done == 1:
            self.first_loss = loss
        if not math.isfinite(loss):
            raise Diverged(self.steps_done, f"the loss became {loss}")
        if loss > self.settings.divergence_factor * self.first_loss:
            raise Diverged(self.steps_done, f"the loss rose from {self.first_loss:.2f} to {loss:.2f}")
