"""Does training on a CUDA device compute what it should: kernels against float64, a compiled step against a plain one?

    python benchmarks/cuda_training.py [MIXER …]

Prints one line a check and exits with 1 if one fails.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.build import build_decoder
from efficientllm.models.cross_entropy import mean_cross_entropy
from efficientllm.models.mixers._between_chunks import carried, carried_one_by_one, solved
from efficientllm.models.mlp._gated import gated_down
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.blocks import prepare_blocks

FAILED: list[str] = []


def say(name: str, error: float, bound: float) -> None:
    """Print a relative error beside its bound."""
    good = error <= bound  # NaN is not
    print(f"{name:64}{error:10.1e}  bound {bound:.0e}  {'ok' if good else 'FAILED'}", flush=True)
    if not good:
        FAILED.append(name)


def error_of(got: Tensor, expected: Tensor) -> float:
    """Return the difference's norm over the norm."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def cross_entropy() -> None:
    """The chunked loss and its gradients, with targets that do not count."""
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 3e-3)):
        torch.manual_seed(0)
        hidden = torch.randn(3000, 896, device="cuda")
        head = torch.randn(151_936, 896, device="cuda") * 0.02
        targets = torch.randint(0, 151_936, (3000,), device="cuda")
        targets[::7] = -100
        given = [x.to(dtype).requires_grad_() for x in (hidden, head)]
        loss = mean_cross_entropy(*given, targets, 2 * 151_936 * 1000)
        loss.backward()
        exact = [x.detach().float().requires_grad_() for x in given]
        expected = F.cross_entropy(exact[0] @ exact[1].t(), targets, ignore_index=-100)
        expected.backward()
        say(f"cross-entropy {dtype}", abs(loss.item() / expected.item() - 1), 1e-4 if dtype != torch.float32 else 1e-6)
        for name, got, right in zip(("hidden", "head"), given, exact, strict=True):
            say(f"cross-entropy {dtype}, gradient of {name}", error_of(got.grad, right.grad), bound)  # type: ignore[arg-type]


def gated() -> None:
    """The gated layer, plain and with experts."""
    for experts in (0, 8):
        torch.manual_seed(0)
        rows, inner, width = 4096, 4864, 896
        gate_up = torch.randn(rows, 2 * inner, device="cuda", dtype=torch.bfloat16).requires_grad_()
        weight = torch.randn(*([experts] if experts else []), width, inner, device="cuda") / inner**0.5
        weight = weight.bfloat16().requires_grad_()
        pull = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16)
        ends = torch.tensor([100, 100, 612, 1024, 2048, 3000, 4000, 4096], device="cuda", dtype=torch.int32)
        out = gated_down(gate_up, weight, ends if experts else None)
        out.backward(pull)
        exact = [x.detach().float().requires_grad_() for x in (gate_up, weight)]
        gate, up = exact[0].chunk(2, -1)
        value = F.silu(gate) * up
        if experts:
            begins = [0, *ends.tolist()]
            pieces = [value[a:b] @ exact[1][e].t() for e, (a, b) in enumerate(itertools.pairwise(begins))]
            expected = torch.cat(pieces)
        else:
            expected = value @ exact[1].t()
        expected.backward(pull.float())
        name = "gated layer of 8 experts" if experts else "gated layer"
        say(name, error_of(out, expected), 1e-2)
        say(f"{name}, gradient of gate and up", error_of(gate_up.grad, exact[0].grad), 1e-2)  # type: ignore[arg-type]
        say(f"{name}, gradient of the matrix", error_of(weight.grad, exact[1].grad), 1e-2)  # type: ignore[arg-type]


def recurrences() -> None:
    """What goes from chunk to chunk, and triangular systems; the interpreter of the tests has no bfloat16 products."""
    for height, width, heads in ((128, 256, 5), (64, 64, 14)):
        for coarse, bound in ((False, 1e-5), (True, 1e-2)):
            torch.manual_seed(0)
            both = torch.randn(2, 32, heads, height, width + height, device="cuda") / height**0.5
            both[..., width:] *= 0.3
            decay = torch.rand(2, 32, heads, height, 1, device="cuda")
            results = []
            for dtype in (torch.float32, torch.float64):
                leaves = [x.to(dtype).requires_grad_() for x in (decay.clone(), both.clone())]
                write, mix = leaves[1].split((width, height), -1)
                if dtype == torch.float64:
                    before, last = carried_one_by_one(leaves[0], write, None, mix)
                else:
                    kind = torch.bfloat16 if coarse else torch.float32
                    before, last = carried(leaves[0], write, None, mix, kind)
                (before.square().sum() + last.sum()).backward()
                results.append([before, last, *(x.grad for x in leaves)])
            for name, got, right in zip(("before", "last", "decay's gradient", "others'"), *results, strict=True):
                say(f"carry {height} x {width}, coarse {coarse}: {name}", error_of(got.detach(), right.detach()), bound)
    below = torch.randn(500, 64, 64, device="cuda").tril(-1) / 8
    right_side = torch.randn(500, 64, 32, device="cuda")
    exact = torch.linalg.solve_triangular(below.double(), right_side.double(), upper=False, unitriangular=True)
    say("triangular systems", error_of(solved(torch.matmul, below, right_side), exact), 1e-5)


def whole_step(mixer: str, mlp: str, checkpointing: str) -> None:
    """Loss and gradients of a compiled bf16 step against a plain one in float32."""
    settings = PretrainSettings(
        size="0.5b", shape={"num_layers": 2}, mixer=Choice(name=mixer), mlp=Choice(name=mlp), dtype="bfloat16",
        compile=True, activation_checkpointing=checkpointing, sequence_tokens=512,
    )  # fmt: skip
    tokens = torch.randint(0, 8192, (2, 513), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    gradients, losses = [], []
    for plain in (True, False):
        torch._dynamo.reset()
        decoder = build_decoder(settings, vocab_tokens=8192, seed=0, device="cuda")
        if not plain:
            prepare_blocks(decoder, settings)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=not plain):
            loss, extra = decoder.losses(tokens[:, :-1], tokens[:, 1:])
        (loss if extra is None else loss + extra).backward()
        losses.append(float(loss))
        gradients.append(torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None]))
    name = f"{mixer} {mlp}, compiled, checkpointing {checkpointing}"
    say(f"{name}: loss", abs(losses[1] / losses[0] - 1), 2e-3)
    # experts are chosen anew in bfloat16, so some tokens go elsewhere
    say(f"{name}: gradients", error_of(gradients[1], gradients[0]), 0.3 if mlp == "moe" else 4e-2)


def main() -> None:
    """Check all."""
    cross_entropy()
    gated()
    recurrences()
    if sys.argv[1:]:
        for mixer in sys.argv[1:]:
            whole_step(mixer, "dense", "none")
    else:
        for checkpointing in ("none", "selective", "full"):
            whole_step("gqa", "dense", checkpointing)
        whole_step("gqa", "moe", "none")
        whole_step("gqa", "moe", "full")
        whole_step("mla", "dense", "none")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
