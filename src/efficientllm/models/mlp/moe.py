"""Mixture of experts: a router sends each token to a few of many gated layers, and no token is dropped."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from efficientllm.errors import Unsupported
from efficientllm.models.forward_pass import FLOAT, ForwardPass
from efficientllm.models.linear import StackedLinear, num_parameters
from efficientllm.models.mlp import _moe_paths as paths
from efficientllm.models.mlp._contract import LoadTally, Mlp, MlpEntry
from efficientllm.models.mlp._moe_options import check_options
from efficientllm.models.mlp._moe_router import (
    Router,
    Routing,
    balance_loss,
    count_tokens,
    entropy_nats,
    shares,
    z_loss,
)
from efficientllm.models.mlp.dense import GatedMlp
from efficientllm.models.part import compute_dtype
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card

#: The router's entropy is counted in millionths of a nat, as an integer: casting the model leaves integers alone.
_MICRO = 1e6


class MixtureOfExperts(Mlp):
    """Σ weight * expert(x) over a token's experts, plus the shared experts, each of the form of `dense`.

    Options (see `MoeOptions`): by default 2 of 8 experts as wide as the shape's mlp, balanced by the loss of Switch
    with weight 0.01. `balance: bias` is DeepSeek-V3's way instead (arXiv:2408.15664): a sigmoid gate, and after each
    step every expert's bias moves by `bias_speed`, up if the expert had fewer tokens than the mean, else down.
    """

    def __init__(
        self,
        shape: Shape,
        num_experts: int = 8,
        active_experts: int = 2,
        shared_experts: int = 0,
        balance: str = "loss",
        aux_loss: float | None = None,
        bias_speed: float | None = None,
        z_loss: float = 0.0,
        gate: str | None = None,
        expert_width: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.options = options = check_options(
            shape.mlp_width,
            num_experts=num_experts,
            active_experts=active_experts,
            shared_experts=shared_experts,
            expert_width=expert_width,
            balance=balance,
            aux_loss=aux_loss,
            bias_speed=bias_speed,
            z_loss=z_loss,
            gate=gate,
        )
        width, inner = shape.width, options.expert_width
        self.router = Router(width, num_experts, active_experts, options.gate, biased=balance == "bias")
        self.gate_up = StackedLinear(num_experts, width, 2 * inner)
        self.down = StackedLinear(num_experts, inner, width, writes_residual=True)
        self.shared = GatedMlp(replace(shape, mlp_width=shared_experts * inner)) if shared_experts else None
        counters = torch.zeros(2, num_experts + 2, dtype=torch.int64)
        self.register_buffer("counters", counters, persistent=False)
        self.counters: Tensor  # rows: this step, since reset; columns: tokens by expert, entropy, forward passes
        self._losses: dict[str, Tensor] = {}

    def implementation(self, dtype: torch.dtype, *, gradients: bool) -> str:
        """Return how many tokens are computed at once here: `grouped`, or `split` (see `_moe_paths`)."""
        return "grouped" if self._groups(dtype) else "split"

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the residual stream, BTD."""
        x_MD = x_BTD.flatten(0, -2)
        routing: Routing = self.router(x_MD)
        if self.training and torch.is_grad_enabled():
            self._watch(routing)
        out_BTD = self.run_wide(self.compute, x_MD, routing, self._path(x_BTD)).view(x_BTD.shape)
        return out_BTD if self.shared is None else out_BTD + self.shared(x_BTD)

    def reference(self, x_BTD: Tensor) -> Tensor:
        """Return the same with every expert over all tokens."""
        x_MD = x_BTD.flatten(0, -2)
        out_MD = paths.masked(x_MD, self.router.reference(x_MD), self.gate_up.weight, self.down.weight)
        return out_MD.view(x_BTD.shape) if self.shared is None else out_MD.view(x_BTD.shape) + self.shared(x_BTD)

    def compute(self, x_MD: Tensor, routing: Routing, path: str) -> Tensor:
        """Return the routed experts' part, MD, in the way that `path` names (see `_moe_paths`)."""
        dtype = compute_dtype(self.down.weight)
        chosen_MA, weights_MA, x_MD = routing.chosen_MA, routing.weights_MA, x_MD.to(dtype)
        gate_up: Tensor = self.gate_up.weight
        down: Tensor = self.down.weight
        if path == "masked":
            return paths.masked(x_MD, paths.scattered(chosen_MA, weights_MA, len(down)), gate_up, down)
        if path == "gathered":
            return paths.gathered(x_MD, chosen_MA, weights_MA, gate_up, down)
        if path == "one token":
            return paths.one_token(x_MD, chosen_MA, weights_MA, gate_up, down)
        products = paths.split_products
        if path == "grouped":  # which autocast does not know
            products, gate_up, down = paths.grouped_products, gate_up.to(dtype), down.to(dtype)
        return paths.sorted_experts(x_MD, chosen_MA, weights_MA, gate_up, down, products)

    def losses(self) -> dict[str, Tensor]:
        """Return the weighed balance loss and z-loss of the last forward pass in training, once."""
        losses, self._losses = self._losses, {}
        return losses

    def tallies(self) -> tuple[Tensor, ...]:
        """Return the counts."""
        return (self.counters,)

    def step_counts(self) -> tuple[Tensor, ...]:
        """Return the counts of the present step."""
        return (self.counters[0],)

    def after_step(self) -> None:
        """Move the bias, if there is one, and add the step's counts to those since reset."""
        if self.router.bias is not None:
            load_E = self.step_load().float()
            with torch.no_grad():
                self.router.bias.add_((load_E.mean() - load_E).sign(), alpha=self.options.bias_speed)
        self.counters[1] += self.counters[0]
        self.counters[0] = 0

    def step_load(self) -> Tensor:
        """Return the tokens of each expert since the last `after_step`, E in int64."""
        return self.counters[0, :-2]

    def load_tally(self) -> LoadTally:
        """Return what was counted since `reset_load`, up to the last `after_step`; reads the device."""
        *tokens, micro_nats, passes = self.counters[1].tolist()
        return LoadTally(tuple(tokens), micro_nats / _MICRO / passes if passes else float("nan"))

    def reset_load(self) -> None:
        """Count from here on."""
        self.counters.zero_()

    def model_flops(self, num_tokens: int) -> float:
        """Return the operations of the router, of the active experts and of the shared ones."""
        return num_tokens * (self._fixed_flops() + self.options.active_experts * self._expert_flops())

    def reference_flops(self, num_tokens: int) -> float:
        """Return the operations with all experts over all tokens."""
        return num_tokens * (self._fixed_flops() + self.options.num_experts * self._expert_flops())

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return the router's numbers, and a token's row, inner layers and result once for each of its experts.

        Eager the router keeps what went in as float32; two float32 a token and expert are its affinities.
        """
        width, experts, active = self.shape.width, self.options.num_experts, self.options.active_experts
        shared = 0.0 if self.shared is None else self.shared.saved_bytes(replace(ahead, recomputes=False))
        choice = ahead.num_tokens * active * (8 + FLOAT)
        affinities = ahead.floats((2 if ahead.compiled else 1) * experts)
        given = 0.0 if ahead.compiled else ahead.floats(width)
        if ahead.recomputes:
            return choice + affinities + given + shared
        if ahead.compiled and self.shared is None:
            given = ahead.numbers(width)
        order = ahead.num_tokens * active * 2 * 8
        return choice + affinities + given + order + ahead.numbers(active * self._pair_numbers(ahead)) + shared

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the gradients of the pairs' inner layers and of the experts' weights, before these become float32."""
        width, active = self.shape.width, self.options.active_experts
        weights = self.options.num_experts * self.gate_up.weight[0].numel() * ahead.dtype_bytes
        gradients = ahead.numbers(active * (width + (4 if ahead.kernels else 2) * self.options.expert_width))
        again = 0.0
        if ahead.recomputes:
            again = ahead.numbers(width + active * self._pair_numbers(ahead))
        return gradients + (weights if ahead.autocast else 0.0) + again

    def num_active_parameters(self) -> int:
        """Return what one token uses: router, shared experts, its own experts."""
        return num_parameters(self) - (self.options.num_experts - self.options.active_experts) * self._expert_size()

    def read_parameters(self, num_tokens: int) -> float:
        """Return the expected parameters that so many tokens touch, if the router chooses evenly.

        With E experts, A a token, each token by itself: an expert is left out by one token with probability 1 - A / E,
        by B tokens with (1 - A / E)^B, so that E * (1 - (1 - A / E)^B) experts are read. A router that prefers some
        experts, or tokens that resemble each other, touch fewer.
        """
        experts, share = self.options.num_experts, self.options.active_experts / self.options.num_experts
        idle_experts = experts * (1 - share) ** num_tokens
        return num_parameters(self) - idle_experts * self._expert_size()

    def _watch(self, routing: Routing) -> None:
        """Take the losses and count, on the device."""
        options, load_E = self.options, count_tokens(routing.chosen_MA, self.options.num_experts)
        shares_ME, losses = shares(routing.scores_ME), {}
        if options.aux_loss:
            losses["balance"] = options.aux_loss * balance_loss(shares_ME, load_E)
        if options.z_loss:
            losses["router_z"] = options.z_loss * z_loss(routing.logits_ME)
        self._losses = losses
        with torch.no_grad():
            micro_nats = (entropy_nats(shares_ME) * _MICRO).long()
            self.counters[0] += torch.cat((load_E, torch.stack((micro_nats, torch.ones_like(micro_nats)))))

    def _pair_numbers(self, ahead: ForwardPass) -> int:
        """Return the numbers that are kept of a (token, expert) pair: its row, gate, up, their product, its result."""
        inner_tensors = 2 if ahead.kernels else 3 if ahead.compiled else 4
        return 2 * self.shape.width + inner_tensors * self.options.expert_width

    def _path(self, x_BTD: Tensor) -> str:
        rows, tokens = x_BTD.shape[:-1].numel() // x_BTD.shape[-2], x_BTD.shape[-2]
        if self._groups(compute_dtype(self.down.weight)):
            return "grouped"
        if x_BTD.device.type != "cuda":
            return "one token" if rows * tokens == 1 and not self.training else "split"
        if tokens > 1:
            return "split"
        # A step that may be captured: copies of the pairs' weights as long as those are fewer than all experts
        return "gathered" if rows * self.options.active_experts < self.options.num_experts else "masked"

    def _groups(self, dtype: torch.dtype) -> bool:
        weight, options = self.down.weight, self.options
        return paths.grouped_fits(weight.device, dtype, self.shape.width, options.expert_width, options.num_experts)

    def _expert_size(self) -> int:
        return self.gate_up.weight[0].numel() + self.down.weight[0].numel()

    def _expert_flops(self) -> float:
        return self.gate_up.flops_per_token() + self.down.flops_per_token()

    def _fixed_flops(self) -> float:
        return self.router.linear.flops_per_token() + (self.shared.model_flops(1) if self.shared else 0.0)


def _supports(shape: Shape) -> None:
    if shape.mlp_bias:
        raise Unsupported("experts have no biases, and shape.mlp_bias asks for them")


ENTRY = MlpEntry(
    card=Card(
        title="Mixture of experts",
        source="arXiv:2101.03961",
        improves=("quality", "compute"),
        costs=("memory",),
        note="against a dense layer of one expert's width; dropless; all experts are stored, a token uses a few",
    ),
    build=MixtureOfExperts,
    supports=_supports,
)
