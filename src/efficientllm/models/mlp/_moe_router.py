"""Which experts a token goes to, with what weights, and what keeps the experts evenly used."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.models.linear import Linear
from efficientllm.models.part import Chooser


class Routing(NamedTuple):
    """Where the tokens go.

    Attributes:
        chosen_MA: experts of each token, the best first.
        weights_MA: what their results are multiplied by, float32.
        scores_ME: the gate's affinities before the choice, float32.
        logits_ME: what the gate was applied to, float32.
    """

    chosen_MA: Tensor  # noqa: N815 - a shape suffix
    weights_MA: Tensor  # noqa: N815
    scores_ME: Tensor  # noqa: N815
    logits_ME: Tensor  # noqa: N815


class Router(Chooser):
    """The gate: affinities of each token to each expert, in float32 whatever the model's type.

    The weights of the chosen experts are their affinities over the sum of these. With one expert a token that would
    always be 1 and teach the router nothing: there the affinity itself is the weight, as in Switch (arXiv:2101.03961).

    Attributes:
        gate: `softmax` over the experts, or `sigmoid` of each.
        bias: added to the affinities for the choice alone, not for the weights; None unless `biased`
            (arXiv:2408.15664). A parameter without gradient, so that it is saved with the model.
    """

    def __init__(self, width: int, num_experts: int, active_experts: int, gate: str, *, biased: bool) -> None:
        super().__init__()
        self.gate, self.num_experts, self.active_experts = gate, num_experts, active_experts
        self.linear = Linear(width, num_experts)
        # in bfloat16 its small steps would be lost in rounding
        bias = torch.zeros(num_experts, dtype=torch.float32)
        self.bias = nn.Parameter(bias, requires_grad=False) if biased else None

    def forward(self, x_MD: Tensor) -> Routing:
        """Return where the tokens go."""
        logits_ME, scores_ME = self._affinities(x_MD)
        wanted_ME = scores_ME.detach() if self.bias is None else scores_ME.detach() + self.bias.float()
        chosen_MA = self.choose(lambda: wanted_ME.topk(self.active_experts, -1).indices)
        weights_MA = scores_ME.gather(-1, chosen_MA)
        if self.active_experts > 1:
            weights_MA = weights_MA / weights_MA.sum(-1, keepdim=True)
        return Routing(chosen_MA, weights_MA, scores_ME, logits_ME)

    def reference(self, x_MD: Tensor) -> Tensor:
        """Return the weight of every expert for every token, 0 where it was not chosen, ME in float32."""
        _, scores_ME = self._affinities(x_MD)
        wanted_ME = scores_ME if self.bias is None else scores_ME + self.bias.float()
        ranks_ME = wanted_ME.argsort(-1, descending=True).argsort(-1)
        kept_ME = scores_ME.where(ranks_ME < self.active_experts, torch.zeros_like(scores_ME))
        return kept_ME if self.active_experts == 1 else kept_ME / kept_ME.sum(-1, keepdim=True)

    def _affinities(self, x_MD: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x_MD.device.type, enabled=False):
            logits_ME = F.linear(x_MD.float(), self.linear.weight.float())
        return logits_ME, logits_ME.softmax(-1) if self.gate == "softmax" else logits_ME.sigmoid()


def count_tokens(chosen_MA: Tensor, num_experts: int) -> Tensor:
    """Return how many tokens each expert got, E in int64; `bincount` would make a CUDA device wait for the host."""
    experts_E = torch.arange(num_experts, device=chosen_MA.device)
    return (chosen_MA.reshape(-1, 1) == experts_E).sum(0)


def shares(scores_ME: Tensor) -> Tensor:
    """Return the affinities as a distribution over the experts: softmax's own, a sigmoid's over their sum."""
    return scores_ME / scores_ME.sum(-1, keepdim=True)


def balance_loss(shares_ME: Tensor, load_E: Tensor) -> Tensor:
    """Return E * Σ (share of pairs sent to e) * (mean share of e): 1 if even, E if one expert gets all.

    The loss of Switch (arXiv:2101.03961, equation 4), with the pairs of all choices in place of one choice a token.
    """
    sent_E = load_E / load_E.sum()
    return shares_ME.shape[-1] * (sent_E * shares_ME.mean(0)).sum()


def z_loss(logits_ME: Tensor) -> Tensor:
    """Return the mean square of the logits' log-sum, which keeps them small (arXiv:2202.08906)."""
    return logits_ME.logsumexp(-1).square().mean()


def entropy_nats(shares_ME: Tensor) -> Tensor:
    """Return the mean entropy of the tokens' distributions over the experts, in nats."""
    mean: Tensor = torch.special.entr(shares_ME).sum(-1).mean()
    return mean
