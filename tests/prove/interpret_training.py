"""Runs one of the training kernels under Triton's interpreter against float64; prints what it compared.

python interpret_training.py NAME      with TRITON_INTERPRET=1
"""

import sys

import torch
import torch.nn.functional as F

from efficientllm import registry
from efficientllm.models import _cross_entropy_kernel
from efficientllm.models.linear import Factors
from efficientllm.models.mixers import _carry_kernel, _short_conv_kernel, _triangular_kernel
from efficientllm.models.mixers._between_chunks import carried_one_by_one
from efficientllm.models.mlp import _gated, _gated_kernel
from efficientllm.precision import _blocks, _dequantise_kernel


def compare(what, got, expected, bound):
    error = ((got.double() - expected).norm() / expected.norm()).item()
    assert error <= bound, f"{what}: {error:.1e}, more than {bound:.0e}"
    print(f"same {what}: {error:.1e}")


def compilable(operator, *given):
    """Hold an operator to what a compiler takes for granted: its shapes without data, its gradients, no hidden writes."""
    torch.library.opcheck(operator, given, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
    print("same to a compiler")


def cross_entropy():
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)):
        logits = (torch.randn(6, 10_007) * 3).to(dtype)
        targets = torch.tensor([3, -100, 10_006, 0, 8192, 8191])
        exact = logits.double().requires_grad_()
        losses = F.cross_entropy(exact, targets, ignore_index=-100, reduction="none")
        (losses.sum() * 0.25).backward()
        got = _cross_entropy_kernel.replace_by_gradient(logits, targets, torch.tensor(0.25))
        compare(f"loss {dtype}", got, losses, 1e-6)
        compare(f"gradient {dtype}", logits, exact.grad, bound)
        assert not logits[1].any(), "a target that does not count has a gradient"


def gated():
    compilable(_gated_kernel.silu_gate, torch.randn(5, 8))
    compilable(_gated_kernel.silu_gate_backward, torch.randn(5, 8), torch.randn(5, 4))
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        gate_up, weight = torch.randn(2, 5, 2 * 1100).to(dtype), (torch.randn(16, 1100) / 33).to(dtype)
        pull = torch.randn(2, 5, 16).to(dtype)
        given = [x.clone().requires_grad_() for x in (gate_up, weight)]
        exact = [x.double().requires_grad_() for x in (gate_up, weight)]
        out = _gated.gated_down(*given)
        out.backward(pull)
        gate, up = exact[0].chunk(2, -1)
        expected = F.linear(F.silu(gate) * up, exact[1])
        expected.backward(pull.double())
        compare(f"result {dtype}", out, expected, bound)
        for name, a, b in zip(("gate and up", "matrix"), given, exact, strict=True):
            compare(f"gradient of {name} {dtype}", a.grad, b.grad, bound)

    frozen()


def frozen():
    """A `down` that is frozen, alone and with a correction of low rank, and one of another kind."""
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        shapes = {"gate and up": (2, 5, 2 * 1100), "matrix": (16, 1100), "A": (3, 1100), "B": (16, 3)}
        drawn = {
            name: (torch.randn(shape) / (1 if len(shape) == 3 else 33)).to(dtype) for name, shape in shapes.items()
        }
        pull = torch.randn(2, 5, 16).to(dtype)
        exact = {name: x.double().requires_grad_(name != "matrix") for name, x in drawn.items()}
        gate, up = exact["gate and up"].chunk(2, -1)
        value = F.silu(gate) * up
        for kind in ("alone", "corrected", "of another kind"):
            given = {name: x.clone().requires_grad_(name != "matrix") for name, x in drawn.items()}
            gate_up, weight, down, up_DR = given.values()
            expected = F.linear(value, exact["matrix"])
            if kind == "alone":
                out = _gated.gated_down(gate_up, weight)
            elif kind == "of another kind":
                out = F.linear(_gated.gated(gate_up), weight)
            else:
                out = _gated.gated_factors(gate_up, Factors(weight, down, up_DR, lambda total: 2 * total))
                expected = 2 * (expected + F.linear(F.linear(value, exact["A"]), exact["B"]))
            out.backward(pull)
            for x in exact.values():
                x.grad = None
            expected.backward(pull.double(), retain_graph=True)
            compare(f"result {kind} {dtype}", out, expected, bound)
            assert weight.grad is None
            for name in ("gate and up", "A", "B") if kind == "corrected" else ("gate and up",):
                compare(f"gradient of {name} {kind} {dtype}", given[name].grad, exact[name].grad, bound)


def triangular():
    compilable(_triangular_kernel.unit_lower_inverse, torch.randn(2, 3, 20, 20).mT.requires_grad_())
    for side in (5, 16, 33, 64):
        below, right, pull = torch.randn(2, 3, side, side) * 0.3, torch.randn(2, 3, side, 7), torch.randn(2, 3, side, 7)
        given, exact = below.clone().requires_grad_(), below.double().requires_grad_()
        found = _triangular_kernel.unit_lower_inverse(given) @ right
        found.backward(pull)
        lower = exact.tril(-1)
        expected = torch.linalg.solve_triangular(lower, right.double(), upper=False, unitriangular=True)
        expected.backward(pull.double())
        compare(f"solution of {side}", found, expected, 1e-5)
        compare(f"gradient of {side}", given.grad, exact.grad, 1e-5)


def carry():
    for mixed in (False, True):
        write, mix = torch.randn(2, 4, 3, 16, 40)[..., :24].split((8, 16), -1)
        decay = torch.rand(2, 4, 3, 1, 1).requires_grad_()
        compilable(_carry_kernel.carry_states, decay, mix if mixed else None, write, None, False, mixed)
    # batch, chunks, heads, height, width, mixed, starts, axes along which the decay differs
    cases = [
        (2, 4, 3, 16, 20, True, True, (2, 4, 3, 1, 1)),
        (2, 3, 2, 24, 40, True, False, (2, 3, 2, 24, 1)),
        (2, 4, 6, 5, 12, False, True, (2, 4, 1, 5, 1)),
        (1, 3, 2, 70, 33, True, True, (1, 3, 2, 70, 1)),
    ]
    for batch, chunks, heads, height, width, mixed, starts, along in cases:
        drawn = [torch.rand(along), torch.randn(batch, chunks, heads, height, width + height) * 0.2]
        drawn += [torch.randn(batch, heads, height, width)] if starts else []
        results = []
        for dtype in (torch.float32, torch.float64):
            decay, both, *start = leaves = [x.to(dtype).clone().requires_grad_() for x in drawn]
            write, mix = both[..., :width], both[..., width:] if mixed else None
            first = start[0] if starts else None
            if dtype == torch.float32:
                before, last = _carry_kernel.carry_states(decay, mix, write, first, False, False)
            else:
                before, last = carried_one_by_one(decay, write, first, mix)
            torch.manual_seed(1)
            ((before * torch.randn(before.shape)).sum() + (last * torch.randn(last.shape)).sum()).backward()
            results.append([before, last, *(x.grad for x in leaves)])
        for number, (a, b) in enumerate(zip(*results, strict=True)):
            compare(f"carry {height}x{width} {number}", a, b, 1e-5)


def short_conv():
    x = torch.randn(2, 9, 12)[..., :8].requires_grad_()
    compilable(_short_conv_kernel.short_conv, x, torch.randn(8, 4).requires_grad_(), torch.randn(8))
    pull = torch.randn(2, 9, 8)
    compilable(_short_conv_kernel.short_conv_backward, x.detach(), torch.randn(8, 4), None, pull)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        for rows, tokens, channels, taps, has_bias in (
            (2, 70, 130, 4, True),
            (1, 3, 200, 4, False),
            (2, 33, 64, 3, True),
        ):
            drawn = [torch.randn(rows, tokens, channels + 7).to(dtype), torch.randn(channels, taps)]
            drawn += [torch.randn(channels)] if has_bias else []
            pull = torch.randn(rows, tokens, channels).to(dtype)
            given = [x.clone().requires_grad_() for x in drawn]
            y = _short_conv_kernel.short_conv(given[0][..., :channels], given[1], given[2] if has_bias else None)
            y.backward(pull)
            exact = [x.double().requires_grad_() for x in drawn]
            padded = F.pad(exact[0][..., :channels].mT, (taps - 1, 0))
            expected = F.silu(F.conv1d(padded, exact[1][:, None], exact[2] if has_bias else None, groups=channels).mT)
            expected.backward(pull.double())
            compare(f"convolution {tokens} {dtype}", y, expected, bound)
            for number, (a, b) in enumerate(zip(given, exact, strict=True)):
                compare(f"gradient {number} {dtype}", a.grad, b.grad, bound)


def dequantise():
    for name, options in (
        ("nf4", {}),
        ("nf4", {"double": False, "block": 1024}),
        ("int4", {}),
        ("int4", {"group": 16}),
    ):
        entry = registry.load("precision", name)
        for rows, columns, dtype in ((40, 128, torch.float32), (37, 111, torch.bfloat16), (3, 7, torch.float16)):
            drawn = torch.randn(rows, columns) * torch.logspace(-3, 3, rows)[:, None]
            layer = entry.pack(drawn.to(dtype), None, **options)
            packed, form = _blocks.Blocks(*layer.fields()), layer.form()
            got = _dequantise_kernel.matrix(packed, *form, dtype)
            expected = _blocks.plain_matrix(packed, *form, torch.float64)
            assert got.isfinite().all(), "a number that is not finite"
            compare(f"{name} {rows}x{columns} {dtype}", got, expected, {torch.float32: 1e-7}.get(dtype, 4e-3))
    bits = torch.arange(256, dtype=torch.uint8)
    bits = bits[bits % 128 != 127]  # NaN
    scales = _blocks.Blocks(
        torch.full((len(bits) * 8,), 255, dtype=torch.uint8), torch.ones(16), bits, None, torch.zeros(1), torch.ones(1)
    )
    got = _dequantise_kernel.matrix(scales, 16, len(bits), 16, torch.float32)
    assert torch.equal(got[:, 3], bits.view(torch.float8_e4m3fn).float()), "a float8 is read as another number"
    print("same float8")


if __name__ == "__main__":
    torch.manual_seed(0)
    globals()[sys.argv[1]]()
