"""The options of a mixture of experts, checked."""

from __future__ import annotations

from dataclasses import dataclass

from efficientllm.errors import Unsupported, UserError, did_you_mean

_GATES = {"loss": "softmax", "bias": "sigmoid"}
_MOST_EXPERTS = 4096
_MOST_WIDTH = 10_000_000


@dataclass(frozen=True)
class MoeOptions:
    """Checked options.

    Attributes:
        num_experts: routed experts, of which each token uses `active_experts`.
        shared_experts: experts that every token uses besides.
        expert_width: inner width of one expert.
        balance: what keeps the experts evenly used: `loss` or `bias`.
        aux_loss: weight of the balance loss; 0 leaves it out.
        bias_speed: step of the bias after each optimiser step.
        z_loss: weight of the router's z-loss; 0 leaves it out.
        gate: `softmax` or `sigmoid`.
    """

    num_experts: int
    active_experts: int
    shared_experts: int
    expert_width: int
    balance: str
    aux_loss: float
    bias_speed: float
    z_loss: float
    gate: str


def check_options(
    mlp_width: int,
    *,
    num_experts: int,
    active_experts: int,
    shared_experts: int,
    expert_width: int | None,
    balance: str,
    aux_loss: float | None,
    bias_speed: float | None,
    z_loss: float,
    gate: str | None,
) -> MoeOptions:
    """Return the options with what follows from others filled in.

    Raises:
        UserError: a value of the wrong kind, or one that has no effect beside the others.
        Unsupported: counts that make no mixture.
    """
    balance = _word("balance", balance, tuple(_GATES))
    gate = _GATES[balance] if gate is None else _word("gate", gate, tuple(_GATES.values()))
    if balance == "loss" and bias_speed is not None:
        raise UserError("option bias_speed of mlp moe has no effect with balance=loss. Leave it out, or balance=bias.")
    options = MoeOptions(
        num_experts=_count("num_experts", num_experts, 1, _MOST_EXPERTS),
        active_experts=_count("active_experts", active_experts, 1, _MOST_EXPERTS),
        shared_experts=_count("shared_experts", shared_experts, 0, _MOST_EXPERTS),
        expert_width=mlp_width if expert_width is None else _count("expert_width", expert_width, 1, _MOST_WIDTH),
        balance=balance,
        aux_loss=_weight("aux_loss", (0.01 if balance == "loss" else 0.0) if aux_loss is None else aux_loss),
        bias_speed=_weight("bias_speed", 0.001 if bias_speed is None else bias_speed),
        z_loss=_weight("z_loss", z_loss),
        gate=gate,
    )
    if options.active_experts > options.num_experts:
        raise Unsupported(
            f"moe cannot give a token {active_experts} active experts: there are num_experts {num_experts}"
        )
    return options


def _count(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"option {name} of mlp moe is {value!r}. Give a whole number from {least} to {most}.")
    return value


def _weight(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1000:
        raise UserError(f"option {name} of mlp moe is {value!r}. Give a number from 0 to 1000.")
    return float(value)


def _word(name: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise UserError(f"option {name} of mlp moe is {value!r}. {hint}Known: {', '.join(known)}.")
    return str(value)
