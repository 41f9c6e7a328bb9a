"""An engine's logits against float32 arithmetic on the weights that it serves: is what is timed the model at all?

What a number format itself loses is not told here (quality tells it): both sides have the weights as the format holds
them. What is left is rounding on the way, for which a type of activations has a bound, and faults, for which none has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.data.prepare import Prepared
from efficientllm.engines._contract import Engine, Exact
from efficientllm.errors import Disagrees, Unsupported
from efficientllm.precision.pack import load_precision
from efficientllm.records.grid import Grid
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Work
from efficientllm.workloads._contract import Job
from efficientllm.workloads._inference_windows import prompt

#: So many tokens at the end come one by one, the others as a prompt.
_DECODED = 8
#: Type in which products are taken -> relative error of a token's logits, and divergence in nats, that it explains over
#: the depth of a language model. A fault moves logits by about their own size: 1, and whole nats.
BOUNDS = {
    "float32": (1e-4, 1e-5), "float16": (2e-2, 1e-3), "bfloat16": (0.1, 1e-2), "float8_e4m3fn": (0.4, 0.1)
}  # fmt: skip


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
        error, divergence = apart(engine, tokens_BT)
        window.figure("arithmetic_error_ratio", error)
        window.figure("arithmetic_divergence_nats", divergence)
    most_error, most_divergence = bounds(settings)
    # written so that what is no number is out of bounds
    if not (error <= most_error and divergence <= most_divergence):
        raise Disagrees(
            f"logits of {grid.batch} rows are {error:.2g} and {divergence:.2g} nats from float32 arithmetic on the "
            f"same weights; rounding explains {most_error:g} and {most_divergence:g}"
        )


def apart(engine: Engine, tokens_BT: Tensor) -> tuple[float, float]:
    """Return the worst relative error of a token's logits, and the worst divergence of what they tell, in nats."""
    assert isinstance(engine, Exact)
    first = max(1, tokens_BT.shape[1] - _DECODED)
    with torch.inference_mode():
        expected_BnV = engine.exact_logits(tokens_BT, tokens_BT.shape[1] - first + 1)
        # an engine may give the same memory back at every step
        found = [engine.prefill(tokens_BT[:, :first]).float()]
        found += [engine.decode(tokens_B.contiguous()).float().clone() for tokens_B in tokens_BT[:, first:].unbind(1)]
        found_BnV = torch.stack(found, 1)
        error_Bn = (found_BnV - expected_BnV).norm(dim=-1) / expected_BnV.norm(dim=-1)
        told_BnV = expected_BnV.log_softmax(-1)
        divergence_Bn = (told_BnV.exp() * (told_BnV - found_BnV.log_softmax(-1))).sum(-1)
        return float(error_Bn.max()), float(divergence_Bn.max())


def bounds(settings: InferenceSettings) -> tuple[float, float]:
    """Return the error and the divergence that the types of a trial's arithmetic explain."""
    types: set[str] = {settings.dtype}
    if settings.precision is not None:
        entry = load_precision(settings.precision)
        types = {entry.dtype or settings.dtype, entry.computes_in or entry.dtype or settings.dtype}
    return max(BOUNDS[one] for one in types)
