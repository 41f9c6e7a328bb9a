"""One training step after another, in a deterministic order, to a token budget."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import torch

from efficientllm.data.order import TrainOrder
from efficientllm.data.packing import TokenFile
from efficientllm.devices._contract import Device
from efficientllm.errors import Diverged
from efficientllm.models import expert_load
from efficientllm.models.decoder import Decoder
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.blocks import prepare_blocks
from efficientllm.training.choose import load_optimizer, load_schedule
from efficientllm.training.parallel import Shards
from efficientllm.training.ranks import ALONE, Ranks
from efficientllm.training.schedules._contract import learning_rate


class TrainLoop:
    """An optimiser and a schedule over rows drawn in a seeded order; the loss of each step is checked.

    Several ranks take each its rows of a step and its share of the weights; loss and figures are then means over them.

    Weights stay in float32; with another dtype the forward pass runs under autocast. Auxiliary losses of the model's
    parts are differentiated with the loss, and stay out of what is returned and checked.

    Attributes:
        watched: (name, unit) -> what else the last step said: `auxiliary_loss`, `expert_load_max_ratio` (see
            `models/expert_load.py`), each where the model has it.
    """

    def __init__(
        self,
        decoder: Decoder,
        settings: PretrainSettings,
        text: TokenFile,
        device: Device,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.decoder, self.settings = decoder, settings
        self._device, self._text = device, text
        self._order = TrainOrder(text.num_tokens, settings.sequence_tokens, seed, ranks.rank, ranks.world)
        prepare_blocks(decoder, settings)
        self.shards = Shards(decoder, settings, ranks)
        self._rate = functools.partial(
            learning_rate, load_schedule(settings), settings.learning_rate, settings.warmup_ratio
        )
        self._optimizer = load_optimizer(settings, decoder)
        self._rows = settings.rows_per_step // ranks.world
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

    def step(self) -> float:
        """Take one optimiser step; return its mean loss in nats a token, without auxiliary losses.

        Raises:
            Diverged: the loss is not finite, or far above where it began.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.steps_done, self.num_steps)
        losses = self._gradients()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        seen = self._seen(losses)
        self.decoder.after_step()
        self.steps_done += 1
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
        """Leave the step's gradients, clipped; return the losses of its passes."""
        rows = self._order.rows(self.steps_done, self._rows)
        size = self.settings.micro_batch
        starts = range(0, self._rows, size)
        losses = [self._forward_backward(rows[i : i + size], last=i == starts[-1]) for i in starts]
        self.shards.after_passes()
        if self.settings.clip_norm:
            self.shards.clip_(self.settings.clip_norm)
        return losses

    def _forward_backward(self, starts: Any, *, last: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows_BT = self._text.rows(starts, self.settings.sequence_tokens)
        tokens_BT = torch.from_numpy(rows_BT).to(self._device.torch_device(), non_blocking=True)
        self.shards.before_pass(last=last)
        with self.autocast():
            loss, extra = self.decoder.losses(tokens_BT[:, :-1], tokens_BT[:, 1:])
        ((loss if extra is None else loss + extra) / self.settings.passes).backward()
        return loss.detach(), None if extra is None else extra.detach()

    def _seen(self, losses: list[tuple[torch.Tensor, torch.Tensor | None]]) -> dict[tuple[str, str], torch.Tensor]:
        """Return the loss first, then what else there is of this step, as scalars on the device."""
        seen = {("loss", "nats/token"): torch.stack([loss for loss, _ in losses]).mean()}
        extras = [extra for _, extra in losses if extra is not None]
        if extras:
            seen["auxiliary_loss", "nats/token"] = torch.stack(extras).mean()
        ratio = expert_load.step_max_ratio(self.decoder)
        if ratio is not None:
            seen["expert_load_max_ratio", "factor"] = ratio
        return seen

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the forward pass: autocast to the settings' dtype, nothing for float32."""
        if self.settings.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.torch_device().type, dtype=getattr(torch, self.settings.dtype))

    def _check(self, loss: float) -> None:
        if self.steps_done == 1:
            self.first_loss = loss
        if not math.isfinite(loss):
            raise Diverged(self.steps_done, f"the loss became {loss}")
        if loss > self.settings.divergence_factor * self.first_loss:
            raise Diverged(self.steps_done, f"the loss rose from {self.first_loss:.2f} to {loss:.2f}")
