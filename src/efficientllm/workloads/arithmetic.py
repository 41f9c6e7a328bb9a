"""An engine's logits against float32 arithmetic on the weights that it serves: is what is timed the model at all?

What a number format itself loses is not told here (quality tells it): both sides have the weights as the format holds
them. What is left is rounding on the way and faults. How far rounding moves the logits depends on the model (of random
weights' logits, from .02 at 0.5b to .1 at 14b in bfloat16, a float8's half of them), so it is measured beside: float32
arithmetic once more, with numbers rounded where the engine's types do.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from efficientllm.data.prepare import Prepared
from efficientllm.engines._contract import Engine, Exact
from efficientllm.errors import Disagrees, Unsupported
from efficientllm.records.grid import Grid
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Work
from efficientllm.workloads._contract import Job
from efficientllm.workloads._inference_windows import prompt

#: So many tokens at the end come one by one, the others as a prompt.
_DECODED = 8
#: Errors that are never held against an engine (sums in another order, in float32): relative, and in nats.
_ALWAYS = (1e-4, 1e-5)
#: How many times what rounding alone moves an engine may be off: it rounds in more places than are imitated.
_TIMES = 4


class Apart(NamedTuple):
    """How far logits are from exact ones, at the worst token: relative error, and divergence of what they tell."""

    error: float
    divergence_nats: float

    @classmethod
    def of(cls, found_BnV: Tensor, expected_BnV: Tensor) -> Self:
        """Compare logits."""
        error_Bn = (found_BnV - expected_BnV).norm(dim=-1) / expected_BnV.norm(dim=-1)
        told_BnV = expected_BnV.log_softmax(-1)
        divergence_Bn = (told_BnV.exp() * (told_BnV - found_BnV.log_softmax(-1))).sum(-1)
        return cls(float(error_Bn.max()), float(divergence_Bn.max()))

    def explains(self, other: Apart) -> bool:
        """Whether this, what rounding alone moves, explains what an engine is off; written so that NaN is not."""
        error, nats = self.most()
        return other.error <= error and other.divergence_nats <= nats

    def most(self) -> tuple[float, float]:
        """Return the largest error and divergence that it explains; divergence grows with the error's square."""
        return max(_ALWAYS[0], _TIMES * self.error), max(_ALWAYS[1], _TIMES**2 * self.divergence_nats)


def hold(job: Job, engine: Engine, prepared: Prepared, grid: Grid) -> None:
    """Compare the logits after a prompt, and after each of some tokens decoded one by one, with exact ones.

    Raises:
        Disagrees: an error above its bound, so that nothing that is timed of this engine means anything.
        Unsupported: the engine does not tell what would be exact, or its cache loses something on purpose.
    """
    settings = job.trial.settings
    assert isinstance(settings, InferenceSettings)
    if not isinstance(engine, Exact):
        raise Unsupported(f"engine {settings.engine.name} does not say what float32 arithmetic gives of its weights")
    if settings.cache is not None:
        raise Unsupported(f"a cache in {settings.cache.name} is rounded on purpose: quality tells what that loses")
    engine.begin(grid.batch, grid.tokens)
    tokens_BT = prompt(prepared, grid, job.device)
    work = Work(tokens=tokens_BT.numel(), samples=grid.batch)
    with job.recorder.window("arithmetic", work=work, coordinates=grid.coordinates(), adaptive=False) as window:
        found, alone = apart(engine, tokens_BT)
        window.figure("arithmetic_error_ratio", found.error)
        window.figure("arithmetic_divergence_nats", found.divergence_nats)
        window.figure("arithmetic_rounding_ratio", alone.error)
    if not alone.explains(found):
        error, nats = alone.most()
        raise Disagrees(
            f"logits of {grid.batch} rows are {found.error:.2g} and {found.divergence_nats:.2g} nats from float32 "
            f"arithmetic on the same weights; rounding explains {error:.2g} and {nats:.2g}"
        )


@torch.inference_mode()
def apart(engine: Engine, tokens_BT: Tensor) -> tuple[Apart, Apart]:
    """Return how far an engine's logits are from exact ones, and how far rounding alone moves those."""
    assert isinstance(engine, Exact)
    first = max(1, tokens_BT.shape[1] - _DECODED)
    last = tokens_BT.shape[1] - first + 1
    # an engine may give the same memory back at every step
    found = [engine.prefill(tokens_BT[:, :first]).float().clone()]
    found += [engine.decode(tokens_B.contiguous()).float().clone() for tokens_B in tokens_BT[:, first:].unbind(1)]
    exact_BnV = engine.exact_logits(tokens_BT, last)
    alone_BnV = engine.exact_logits(tokens_BT, last, rounding=True)
    return Apart.of(torch.stack(found, 1), exact_BnV), Apart.of(alone_BnV, exact_BnV)
